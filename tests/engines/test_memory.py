import numpy as np
import pytest
from safetensors.numpy import save_file

from engines import memory
from engines.contract import parse
from engines.errors import UserError
from tests.engines.numpy_bundle import contract
from tests.engines.numpy_model import HEADS, WIDTH, NumpyModel


@pytest.fixture
def folder(tmp_path):
    tensors = {"narrow": np.ones((2, 3), np.float16), "bias": np.ones(2, np.float32)}
    save_file(tensors, tmp_path / "a.safetensors")
    for name in ("a.fp16", "weights.int4", "scales.fp32.int8"):
        save_file(tensors, tmp_path / f"{name}.safetensors")  # converted, beside
    return tmp_path


def test_weights_are_counted_widened_and_as_stored(folder):
    [shard] = memory.shards(folder)
    assert memory.weights(shard) == shard.stat().st_size + 4 * (6 + 2)


def test_what_is_no_shard_is_named(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad.safetensors cannot be read: .*; export the bundle again"):
        memory.weights(tmp_path / "bad.safetensors")


def test_a_cache_goes_in_and_comes_out():
    facts = parse(contract(NumpyModel()))
    layers = sum(map(len, facts.groups))
    keys = np.zeros((layers, HEADS, facts.max_length, WIDTH), np.float32)
    assert memory.cache(facts) == 4 * keys.nbytes


def test_fitting_wants_a_margin(folder, monkeypatch):
    facts = parse(contract(NumpyModel()))
    need = memory.weights(folder / "a.safetensors") + memory.cache(facts)
    monkeypatch.setattr(memory, "available", lambda: int(need * 1.11))
    memory.check_fits(folder, facts, "it")
    monkeypatch.setattr(memory, "available", lambda: int(need * 1.09))
    with pytest.raises(UserError, match=r"^it takes about .* of memory, .* are free: run it with --memory low$"):
        memory.check_fits(folder, facts, "it")


def test_a_system_that_does_not_say_is_believed(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "gone")
    assert memory.available() is None
    memory.check_fits(folder, parse(contract(NumpyModel())), "it")


def test_free_memory_is_what_the_system_calls_available(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemFree: 1 kB\nMemAvailable:    5 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.available() == 5 * 1024
