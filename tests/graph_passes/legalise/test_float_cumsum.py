import numpy as np
import onnx_ir as ir
import pytest

from graph_passes.legalise import float_cumsum
from tests.graph_passes.graphs import operators
from tests.graph_passes.legalise.explicit import listed, same_at_20


def text(kind="int64", attributes=""):
    return f"""<ir_version: 10, opset_import: ["" : 23]>
        sums ({kind}[b,n] x) => ({kind}[b,n] y) <int64 axis = {{1}}>
        {{ y = CumSum {listed(attributes)} (x, axis) }}"""


@pytest.mark.parametrize("attributes", ["", "exclusive = 1", "reverse = 1, exclusive = 1"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_sums_of_tokens_are_exact(kind, attributes):
    model = ir.from_onnx_text(text(kind, attributes))
    feeds = {"x": np.random.default_rng(0).integers(-4, 4, (2, 50_000)).astype(kind)}
    same_at_20(model, float_cumsum.run, feeds, atol=0)
    assert operators(model) == {"Cast": 2, "CumSum": 1}


def test_a_second_run_finds_nothing_nor_do_floats_change():
    model = ir.from_onnx_text(text())
    assert [float_cumsum.run(model).rewrites for _ in range(2)] == [1, 0]
    assert float_cumsum.run(ir.from_onnx_text(text("float"))).rewrites == 0


def test_an_unknown_type_is_refused():
    model = ir.from_onnx_text(text())
    model.graph[0].name, model.graph.inputs[0].type = "first", None
    assert float_cumsum.run(model).refusals == ("CumSum first: its type is not known",)
