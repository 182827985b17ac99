import numpy as np
import onnx
import pytest

from engines.backends import ort_cpu, ov_cpu
from engines.errors import UserError
from engines.registry import BuildJob

GRAPH = """
toy (float[B,N] a, int64[1] n) => (float[B,N] total, float[B,N] same, int64[1] twice) {
    total = Add(a, a)
    same = Identity(total)
    twice = Add(n, n)
}"""


def saved(folder, text):
    file = folder / "graph.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]>\n{text}'), file)
    return file


@pytest.fixture
def graph(tmp_path):
    return saved(tmp_path, GRAPH)


def feeds():
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([21])}


def equal(file, fed):
    """Runs a graph in both engines; outputs that differ in name, type or value fail."""
    want, got = ort_cpu.load(file)(fed), ov_cpu.load(file)(fed)
    assert list(got) == list(want)
    for key, array in want.items():
        np.testing.assert_array_equal(got[key], array, strict=True)


def test_runs_by_name(graph):
    equal(graph, feeds())


def test_takes_what_another_engine_gave(graph):
    fed = feeds()
    fed["n"] = fed["n"].astype(np.longlong)  # ONNX Runtime's int64
    assert ov_cpu.load(graph)(fed)["twice"].tolist() == [42]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"a": np.zeros((2, 3))}, r"input 'a' is float64 \[2, 3\], not float32"),
        ({"a": np.zeros((2, 3, 1), np.float32)}, r"input 'a' is float32 \[2, 3, 1\]"),
        ({"n": np.array([1, 2])}, r"input 'n' is int64 \[2\], not int64 \[1\]"),
        ({"c": np.array([1])}, "missing or unknown inputs: c; the engine takes a, n"),
    ],
)
def test_inputs_are_checked(graph, change, match):
    with pytest.raises(UserError, match=match):
        ov_cpu.load(graph)(feeds() | change)


@pytest.mark.parametrize("kind", ["float", "int64"])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(("columns", "keep"), [(16, 16), (36, 8), (577, 576), (2880, 640)])
def test_ties_go_to_the_lower_index(tmp_path, kind, largest, columns, keep):
    text = f"""top ({kind}[B,{columns}] x) => ({kind}[B,{keep}] best, int64[B,{keep}] places)
    <int64[1] k = {{{keep}}}> {{ best, places = TopK <largest={largest}, sorted=1> (x, k) }}"""
    file = saved(tmp_path, text)
    for levels in (1, 2, 7):
        x = np.random.default_rng(levels).integers(0, levels, (3, columns))
        equal(file, {"x": x.astype(np.float32 if kind == "float" else np.int64)})


def test_ties_in_a_loop_too(tmp_path):
    text = """top (float[4,40] x) => (int64[N,20] places) <int64 rounds = {4}, bool yes = {1}, int64[1] k = {20}> {
        places = Loop (rounds, yes) <body = row (int64 at, bool go) => (bool on, int64[20] found) {
            on = Identity(go)
            one = Gather(x, at)
            best, found = TopK <sorted=1> (one, k)
        }>
    }"""
    file = saved(tmp_path, text)
    equal(file, {"x": np.random.default_rng(0).integers(0, 3, (4, 40)).astype(np.float32)})


REDUCED = "gone = {op} <keepdims=0> (x, axis)\n            y = Mul(gone, c)"


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_arithmetic_behind_reduced_integers_is_right_in_a_batch(tmp_path, op):
    text = f"""red (int64[B,M,N] x) => (int64[B,N] y) <int64[1] axis = {{1}}, int64 c = {{80}}> {{
            {REDUCED.format(op=op)}
    }}"""
    equal(saved(tmp_path, text), {"x": np.random.default_rng(0).integers(0, 3, (4, 3, 9))})


def test_reduced_integers_in_a_loop_are_refused(tmp_path):
    text = f"""red (int64[B,M,N] x) => (int64[B,N] last)
    <int64 rounds = {{4}}, bool yes = {{1}}, int64[1] axis = {{1}}, int64 c = {{80}}> {{
        first = ReduceMax <keepdims=0> (x, axis)
        last = Loop (rounds, yes, first) <body = row (int64 at, bool go, int64[B,N] was) => (bool on, int64[B,N] y) {{
            on = Identity(go)
            {REDUCED.format(op="ReduceSum")}
        }}>
    }}"""
    with pytest.raises(UserError, match=r"graph.onnx: OpenVINO reduces integers in a loop wrongly: use .* ort-cpu"):
        ov_cpu.load(saved(tmp_path, text))


def test_building_proves_that_the_graph_compiles(graph, tmp_path):
    job = BuildJob("vision", graph, tmp_path / "none", tmp_path / "log")
    result = ov_cpu.build(job)
    assert result.file == graph
    assert result.bytes == graph.stat().st_size
    assert result.seconds > 0
    assert not job.out.exists()


def test_what_openvino_does_not_know_is_one_line(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no protobuf")
    with pytest.raises(UserError, match=r"compiling 'vision' for ov-cpu failed: .*bad.onnx.*Unable to read") as caught:
        ov_cpu.build(BuildJob("vision", bad, tmp_path / "none", tmp_path / "log"))
    assert "\n" not in str(caught.value)
    odd = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23, "x" : 1]>\no (float[N] a) => (b) { b = x.F(a) }'
    )
    onnx.save(odd, bad)
    with pytest.raises(UserError, match=r"OpenVINO cannot load .*: .*"):
        ov_cpu.load(bad)


def test_a_failing_run_is_one_line(tmp_path):
    run = ov_cpu.load(saved(tmp_path, "add (float[N] x, float[M] i) => (float[K] y) { y = Add(x, i) }"))
    with pytest.raises(UserError, match=r"OpenVINO cannot run .*graph.onnx: .*mismatch") as caught:
        run({"x": np.ones(2, np.float32), "i": np.ones(3, np.float32)})
    assert "\n" not in str(caught.value)


def test_without_openvino_it_says_what_to_install(graph, monkeypatch):
    monkeypatch.setattr(ov_cpu, "available", lambda: "openvino is not installed")
    with pytest.raises(UserError, match=r"ov-cpu is not available: .*; pip install 'tp-export\[openvino\]'"):
        ov_cpu.load(graph)


def test_precision_is_always_fp32():
    assert {ov_cpu.dtype(d) for d in ("fp32", "fp16", "bf16")} == {"fp32"}


def test_a_light_build_reads_the_graph_only(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(ov_cpu, "_compiled", None)
    assert ov_cpu.build_here(str(graph), light=True)["seconds"] > 0


def test_all_weights_are_held(graph):
    with pytest.raises(UserError, match="ov-cpu holds all weights in memory: use ort-cpu with --memory low"):
        ov_cpu.load(graph, low=True)
