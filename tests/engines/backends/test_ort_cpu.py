import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from engines.backends import ort_cpu
from engines.errors import UserError
from engines.registry import BuildJob

GRAPH = """<ir_version: 10, opset_import: ["" : 20]>
toy (float[B,N] a, float[B,N] b, int64[1] n) => (float[B,N] total, int64[1] twice) {
    total = Add(a, b)
    twice = Add(n, n)
}"""


@pytest.fixture
def graph(tmp_path):
    file = tmp_path / "toy.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH), file)
    return file


def feeds(rows=2, columns=3):
    a = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return {"a": a, "b": a + 1, "n": np.array([21])}


def test_runs_by_name(graph):
    out = ort_cpu.load(graph)(feeds())
    assert list(out) == ["total", "twice"]
    np.testing.assert_array_equal(out["total"], 2 * feeds()["a"] + 1)
    assert out["twice"].tolist() == [42]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"a": np.zeros((2, 3))}, r"input 'a' is float64 \[2, 3\], not float32"),
        ({"a": np.zeros((2, 3, 1), np.float32)}, r"input 'a' is float32 \[2, 3, 1\]"),
        ({"b": np.zeros((2, 4), np.float32)}, r"input 'b' is float32 \[2, 4\], not float32 \[2, 3\]"),
        ({"n": np.array([1, 2])}, r"input 'n' is int64 \[2\], not int64 \[1\]"),
        ({"c": np.array([1])}, "missing or unknown inputs: c"),
    ],
)
def test_inputs_are_checked(graph, change, match):
    with pytest.raises(UserError, match=match):
        ort_cpu.load(graph)(feeds() | change)


def test_a_missing_input_is_named(graph):
    some = feeds()
    del some["b"]
    with pytest.raises(UserError, match="missing or unknown inputs: b; the engine takes a, b, n"):
        ort_cpu.load(graph)(some)


def test_building_proves_that_the_graph_loads(graph, tmp_path):
    job = BuildJob("vision", graph, tmp_path / "none", tmp_path / "log")
    result = ort_cpu.build(job)
    assert result.file == graph
    assert result.bytes == graph.stat().st_size
    assert result.seconds > 0
    assert result.peak_mib > 10
    assert not job.out.exists()


def test_a_broken_graph_is_one_line(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no protobuf")
    with pytest.raises(UserError, match=r"loading 'vision' in ort-cpu failed: .*bad.onnx") as caught:
        ort_cpu.build(BuildJob("vision", bad, tmp_path / "none", tmp_path / "log"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="ONNX Runtime cannot load"):
        ort_cpu.load(bad)


def test_a_failing_run_is_one_line(tmp_path):
    file = tmp_path / "gather.onnx"
    text = "g (float[N] x, int64[1] i) => (float[1] y) { y = Gather(x, i) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}'), file)
    run = ort_cpu.load(file)
    assert run({"x": np.float32([1, 2]), "i": np.array([1])})["y"].tolist() == [2]
    with pytest.raises(UserError, match="ONNX Runtime cannot run"):
        run({"x": np.float32([1, 2]), "i": np.array([7])})


def test_precision_is_always_fp32():
    assert {ort_cpu.dtype(d) for d in ("fp32", "fp16", "bf16")} == {"fp32"}


OPENED = """
import json, re, sys
from pathlib import Path
import onnxruntime
from engines.backends import ort_cpu

def held():
    return int(re.search("RssAnon: *([0-9]+)", Path("/proc/self/status").read_text().replace(chr(9), " "))[1]) / 1024

before = held()
run = ort_cpu.load(Path(sys.argv[1]), low=sys.argv[2] == "low")
print(json.dumps(held() - before))
"""


@pytest.fixture
def linear(tmp_path):
    """A layer with 32 MiB of fp16 weights beside the graph, which computes in fp32."""
    weight = np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float16)
    (tmp_path / "w.bin").write_bytes(weight.tobytes())
    text = """linear (float[B,4096] x) => (float[B,4096] y) <float16[4096,4096] w = ["location": "w.bin"]> {
        wide = Cast <to=1> (w)
        turned = Transpose <perm=[1, 0]> (wide)
        y = MatMul(x, turned)
    }"""
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]>\n{text}'), tmp_path / "linear.onnx")
    return tmp_path / "linear.onnx"


def test_low_memory_computes_the_same(linear):
    x = {"x": np.random.default_rng(1).standard_normal((3, 4096)).astype(np.float32)}
    want, got = (ort_cpu.load(linear, low=low)(x)["y"] for low in (False, True))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_low_memory_leaves_the_weights_on_the_disk(linear):
    def held(mode):
        command = [sys.executable, "-c", OPENED, str(linear), mode]
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert held("fast") > 50  # MiB: widened
    assert held("low") < 25
