import onnx_ir as ir
import pytest

from graph_passes.legalise import opset

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
f (float[b,n] x, int64[2] shape) => (float[b,n] y) { z = Reshape(x, shape) y = Gelu(z) }"""


def test_a_graph_whose_operators_exist_there_moves():
    model = ir.from_onnx_text(TEXT)
    result = opset.run(model, 20)
    assert (result.rewrites, result.refusals) == (1, ())
    assert (model.opset_imports, model.ir_version) == ({"": 20}, 9)
    assert opset.run(model, 20).rewrites == 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Gelu(z)", "Swish(z)", "Swish last: not an operator of opset 20"),
        ("Gelu(z)", "GroupNormalization <num_groups = 1> (z, x, x)", "GroupNormalization last: another operator"),
        ("Gelu(z)", 'Cast <to = 1, round_mode = "up"> (z)', "Cast last: no attribute round_mode at opset 20"),
        ("float[b,n]", "bfloat16[b,n]", "Cos last: no tensor(bfloat16) at opset 20"),
        ("Gelu(z)", "Neg(x, x)", "Neg last: at most 1 inputs at opset 20"),
    ],
)
def test_what_does_not_exist_there_is_named(old, new, reason):
    model = ir.from_onnx_text(TEXT.replace(old, new).replace("Gelu(z)", "Cos(x)"))
    model.graph[-1].name = "last"
    result = opset.run(model, 20)
    assert result.rewrites == 0
    assert reason in result.refusals[0]
    assert model.opset_imports == {"": 23}


def test_bodies_of_loops_are_looked_into():
    text = """<ir_version: 10, opset_import: ["" : 23]>
    f (float[b,n] x) => (float[b,n] y) <int64 trips = {2}>
    {
      y = Loop <body = one (int64 step, bool going, float[b,n] a) => (bool on, float[b,n] c)
        { on = Identity(going) c = RMSNormalization(a, a) }> (trips, , x)
    }"""
    assert "not an operator of opset 20" in opset.run(ir.from_onnx_text(text), 20).refusals[0]
    assert opset.run(ir.from_onnx_text(text.replace("RMSNormalization(a, a)", "Neg(a)")), 20).rewrites == 1


def test_functions_move_with_their_graph():
    text = """<ir_version: 10, opset_import: ["" : 23, "own" : 1]>
    f (float[b,n] x) => (float[b,n] y) { y = own.twice(x) }
    <domain: "own", opset_import: ["" : 23]> twice (x) => (y) { y = Add(x, x) }"""
    model = ir.from_onnx_text(text)
    assert opset.run(model, 20).rewrites == 1
    assert [function.opset_imports for function in model.functions.values()] == [{"": 20}]
    assert "not an operator" in opset.run(ir.from_onnx_text(text.replace("Add(x, x)", "Swish(x)")), 20).refusals[0]
