"""Every rule against the one TensorRT that builds here, and what is known of the others."""

import json

import onnx
import onnx_ir as ir
import pytest

from engines.trt import rules, versions
from graph_passes.legalise import LEGAL
from tests.engines.trt.rtx import answers
from tests.engines.trt.rule_toys import TOYS, Toy, save


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What TensorRT-RTX says of every toy."""
    folder = tmp_path_factory.mktemp("toys")
    for name, toy in TOYS.items():
        save(toy, folder / f"{name}.onnx")
    said = answers([(folder / f"{name}.onnx", toy.sm) for name, toy in TOYS.items()])
    return folder, dict(zip(TOYS, said, strict=True))


@pytest.mark.parametrize("name", TOYS)
def test_a_rule_refuses_what_tensorrt_rtx_refuses_and_nothing_else(built, name):
    folder, answer = built
    said = rules.check(folder / f"{name}.onnx", versions.RTX, TOYS[name].sm)
    assert bool(said) == bool(answer[name]), f"the rules say {said}, TensorRT-RTX says '{answer[name]}'"
    assert [TOYS[name].says in line for line in said] == ([True] if TOYS[name].says else [])
    assert all("\n" not in line for line in said)


def test_what_was_built_passes(demo_bundle):
    entry = json.loads((demo_bundle / "bundle.json").read_text())["engines"]["trt-rtx"]
    said = {part: rules.check(demo_bundle / file, versions.RTX) for part, file in entry["graphs"].items()}
    assert said == {"vision": [], "embed": [], "decoder": []}


def lines(tmp_path, toy, name, sm=None):
    save(toy, tmp_path / "toy.onnx")
    return rules.check(tmp_path / "toy.onnx", versions.named(name), sm)


@pytest.mark.parametrize("name", ["attention", "norm", "rotary"])
def test_operators_of_opset_23_are_refused_before_10_14(tmp_path, name):
    for version in ("10.3", "10.13"):
        opset, operator = lines(tmp_path, TOYS[name], version)
        assert opset.startswith(f"opset 23: TensorRT {version} reads up to 2")
        assert "does not know it; build for this version, which writes it out" in operator
    assert lines(tmp_path, TOYS[name], "10.16") == lines(tmp_path, TOYS[name], "11") == []


def test_nodes_of_a_kind_are_one_line(tmp_path):
    text = "g (float[B,8] x) => (float[B,8] y) { a = Det(x) b = Det(a) y = Det(b) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    model.graph.node[0].name = "one"
    onnx.save(model, tmp_path / "toy.onnx")
    (line,) = rules.check(tmp_path / "toy.onnx", versions.named("10.3"))
    assert line == "Det (3 nodes, the first is one): TensorRT 10.3 does not know it; write it with others"


def test_whole_numbers_are_summed_since_10_8(tmp_path):
    toy = Toy(TOYS["cumsum"].text, opset=20)
    assert lines(tmp_path, toy, "10.3") == ["CumSum (y): not of type int64 in TensorRT 10.3: cast before it"]
    assert lines(tmp_path, toy, "10.13") == []
    model = ir.load(tmp_path / "toy.onnx")
    assert LEGAL["float_cumsum"](model).rewrites == 1
    ir.save(model, tmp_path / "toy.onnx")
    assert rules.check(tmp_path / "toy.onnx", versions.named("10.3")) == []


def test_sums_along_several_axes_are_mixed_up_since_10_8(tmp_path):
    text = "g (float[B,8] x) => (float[B,8] y) <int64 a = {0}, int64 b = {1}> { z = CumSum(x, A) y = CumSum(z, b) }"
    apart, alike = Toy(text.replace("A", "a"), opset=20), Toy(text.replace("A", "b"), opset=20)
    mixed = ["CumSum: TensorRT 10.13 is known to mix up axes and directions where they differ"]
    assert (lines(tmp_path, apart, "10.13"), lines(tmp_path, alike, "10.13")) == (mixed, [])
    assert lines(tmp_path, apart, "10.3") == []


def test_rows_collected_over_a_number_of_trips_that_is_no_constant(tmp_path):
    text = """g (float[B,8] x, int64 n) => (float[B,8] y, float[M,B,8] all) <bool t = {1}>
    { y, all = Loop <body = b (int64 i, bool c, float[B,8] s) => (bool d, float[B,8] r, float[B,8] o)
      { d = Identity(t) r = Neg(s) o = Neg(s) }> (n, , x) }"""
    (line,) = lines(tmp_path, Toy(text, opset=20), "10.3")
    assert line == "Loop (y): the number of its trips must be a constant"


def test_a_plugin_without_a_function_is_refused(tmp_path):
    text = '<ir_version: 10, opset_import: ["" : 20, "tp.export" : 1]>\ng (float[B,8] x) => (int64[B,2] y) {BODY}'
    body = "{ y = tp.export.Select <k = [2]> (x) }"
    function = '<domain: "tp.export", opset_import: ["" : 20]> Select <k> (x) => (y) { z = ArgMax(x) y = Identity(z) }'
    for extra, said in (
        ("", ["Select (y): the file does not say what 'tp.export' means by it; give --plugin"]),
        (function, []),
    ):
        onnx.save(onnx.parser.parse_model(text.replace("{BODY}", f"{body}\n{extra}")), tmp_path / "toy.onnx")
        assert rules.check(tmp_path / "toy.onnx", versions.named("10.13")) == said


def test_weights_are_not_read(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\ng (float[B,64] x) => (float[B,64] y) { y = MatMul(x, w) }'
    )
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[64, 64], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="far.safetensors")
    tensor.external_data.add(key="length", value=str(64 * 64 * 4))
    model.graph.initializer.append(tensor)
    onnx.save(model, tmp_path / "toy.onnx")
    assert rules.check(tmp_path / "toy.onnx", versions.named("10.3")) == []
