import numpy as np
import onnx
import pytest

from engines import memory
from engines.contract import parse
from engines.errors import UserError
from tests.engines.numpy_bundle import contract
from tests.engines.numpy_model import HEADS, WIDTH, NumpyModel

GRAPH = """<ir_version: 10, opset_import: ["" : 23]>
g (float[N,3] x) => (float[N,2] y)
<float16[2,3] narrow = {1, 2, 3, 4, 5, 6}, float[2] bias = {1, 2}, int64[4] places = {1, 2, 3, 4}> {
    wide = Cast <to=1> (narrow)
    scaled = Gemm <transB=1> (x, wide, bias)
    y = Identity(scaled)
}"""


@pytest.fixture
def graph(tmp_path):
    model = onnx.parser.parse_model(GRAPH)
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, tmp_path / "graph.onnx")
    (tmp_path / "w.bin").unlink(missing_ok=True)  # weights are never read
    return tmp_path / "graph.onnx"


def test_weights_are_counted_widened_and_as_stored(graph):
    assert memory.weights(graph) == 6 * (4 + 2) + 2 * (4 + 4) + 4 * (8 + 8)


def test_what_is_no_graph_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    for name in ("bad.onnx", "gone.onnx"):
        with pytest.raises(UserError, match=rf"{name} cannot be read: .*; export the bundle again"):
            memory.weights(tmp_path / name)


def test_a_cache_goes_in_and_comes_out(graph):
    facts = parse(contract(NumpyModel()))
    layers = sum(map(len, facts.groups))
    keys = np.zeros((layers, HEADS, facts.max_length, WIDTH), np.float32)
    assert memory.cache(facts) == 4 * keys.nbytes


def test_fitting_wants_a_margin(graph, monkeypatch):
    facts = parse(contract(NumpyModel()))
    need = 2 * memory.weights(graph) + memory.cache(facts)
    monkeypatch.setattr(memory, "available", lambda: int(need * 1.11))
    memory.check_fits([graph, graph], facts, "it")
    monkeypatch.setattr(memory, "available", lambda: int(need * 1.09))
    with pytest.raises(UserError, match=r"^it takes about .* of memory, .* are free: run it with --memory low$"):
        memory.check_fits([graph, graph], facts, "it")


def test_a_system_that_does_not_say_is_believed(graph, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "gone")
    assert memory.available() is None
    memory.check_fits([graph] * 1000, parse(contract(NumpyModel())), "it")


def test_free_memory_is_what_the_system_calls_available(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemFree: 1 kB\nMemAvailable:    5 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.available() == 5 * 1024
