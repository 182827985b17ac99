import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from engines.errors import UserError
from exporter.in_place import staging
from exporter.shard import lay_out, read_header
from exporter.weight_only import store
from exporter.weight_only.maths import dequantise, packed, quantise
from exporter.weight_only.store import SCALES, scales_in, write

W = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
KINDS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def shard(folder, dtype="F32", kind="int4", **arrays):
    """A safetensors file of these weights, as matrices to quantise."""
    head, places = lay_out("model.safetensors", {name: (dtype, array.shape) for name, array in arrays.items()})
    body = b"".join(array.astype(KINDS[dtype]).tobytes() for array in arrays.values())
    (folder / "model.safetensors").write_bytes(head + body)
    return {name: (tensor, kind) for name, tensor in places.items()}


def read(folder, tensor, dtype):
    data = (folder / tensor.file).read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
    return np.frombuffer(data, dtype).reshape(tensor.shape)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_codes_and_scales_of_any_shard(tmp_path, monkeypatch, dtype, kind):
    monkeypatch.setattr(store, "PIECE", 128)  # several pieces a matrix
    places = write(tmp_path, shard(tmp_path, dtype, kind, w=W), kind)
    codes, scales = quantise(W.astype(KINDS[dtype]).astype(np.float32), kind, 64)
    assert read_header(tmp_path / f"weights.{kind}.safetensors") == places
    found = read(tmp_path, places["w"], np.uint8 if kind == "int4" else np.int8)
    np.testing.assert_array_equal(found, packed(np.ascontiguousarray(codes.T), kind))
    np.testing.assert_array_equal(read(tmp_path, places["w" + SCALES], np.float16), scales.T)
    for wide in ("F32", "BF16"):
        there = scales_in(tmp_path, places, kind, wide)["w" + SCALES]
        np.testing.assert_array_equal(read(tmp_path, there, KINDS[wide]).astype(np.float32), scales.T)
    assert scales_in(tmp_path, places, kind, "F16") == {"w" + SCALES: places["w" + SCALES]}
    assert np.abs(dequantise(codes, scales) - W).max() < 0.3


def test_written_once(tmp_path):
    matrices, told = shard(tmp_path, w=W, v=2 * W), []
    write(tmp_path, matrices, "int4", lambda *each: told.append(each))
    assert told == [(W.nbytes, 2 * W.nbytes), (2 * W.nbytes, 2 * W.nbytes)]
    before = (tmp_path / "weights.int4.safetensors").stat().st_mtime_ns
    write(tmp_path, matrices, "int4", lambda *each: told.append(each))
    assert len(told) == 2
    assert (tmp_path / "weights.int4.safetensors").stat().st_mtime_ns == before
    write(tmp_path, {"w": matrices["w"]}, "int4", lambda *each: told.append(each))
    assert len(told) == 3


@pytest.mark.parametrize(
    ("number", "words"),
    [(np.nan, "holds a number that is not finite"), (-np.inf, "not finite"), (1e6, "holds 1e+06, too large")],
)
def test_a_number_that_has_no_code_names_its_tensor(tmp_path, number, words):
    bad = W.copy()
    bad[3, 5] = number
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        write(tmp_path, shard(tmp_path, w=W, bad=bad), "int4")
    assert f"{tmp_path}/model.safetensors: bad " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_memory_is_bounded_by_one_matrix(tmp_path):
    big = np.zeros((1024, 2048), np.float16)
    matrices = shard(tmp_path, "F16", **{f"w{number}": big for number in range(4)})
    tracemalloc.start()
    try:
        write(tmp_path, matrices, "int4")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * big.nbytes + 4 * 8 * store.PIECE  # half of it is codes


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "packed", full)
    with pytest.raises(UserError, match="no space left"):
        write(tmp_path, shard(tmp_path, w=W), "int4")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


ROOT = Path(__file__).parents[3]
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tests.exporter.weight_only.test_store import W, shard
from exporter.weight_only.store import write
folder = Path(sys.argv[1])
write(folder, shard(folder, a=W, b=W), "int4", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_killed_half_way_there_is_no_such_file_and_the_next_build_begins_anew(tmp_path):
    folder = tmp_path / "onnx"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, folder], check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert not (folder / "weights.int4.safetensors").exists()
    with staging(tmp_path):
        assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    places = write(folder, shard(folder, a=W, b=W), "int4")
    assert read_header(folder / "weights.int4.safetensors") == places
