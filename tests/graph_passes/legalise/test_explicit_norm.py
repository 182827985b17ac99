import numpy as np
import onnx_ir as ir
import pytest

from graph_passes.legalise import explicit_norm
from tests.graph_passes.graphs import operators
from tests.graph_passes.legalise.explicit import TYPES, listed, same_at_20


def text(kind="float", attributes="", width="8"):
    return f"""<ir_version: 10, opset_import: ["" : 23]>
        norm ({kind}[b,n,8] x, {kind}[{width}] scale) => ({kind}[b,n,8] y)
        {{ y = RMSNormalization {listed(attributes)} (x, scale) }}"""


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("attributes", ["", "axis = -1, epsilon = 1e-2", "axis = 2, stash_type = 1"])
def test_it_is_the_operator(kind, attributes):
    numbers = np.random.default_rng(0)
    feeds = {"x": numbers.normal(size=(2, 3, 8)) * 40, "scale": numbers.normal(size=8)}
    model = ir.from_onnx_text(text(kind, attributes))
    given = {name: array.astype(TYPES[kind]) for name, array in feeds.items()}
    same_at_20(model, explicit_norm.run, given, atol=3e-3 if kind == "float16" else 1e-5)
    assert operators(model)["Cast"] == (2 if kind == "float16" else 0)


def test_several_axes_are_one_mean():
    model = ir.from_onnx_text(text(attributes="axis = -2", width="3,8"))
    numbers = np.random.default_rng(0)
    feeds = {"x": numbers.normal(size=(2, 3, 8)), "scale": numbers.normal(size=(3, 8))}
    same_at_20(model, explicit_norm.run, {name: array.astype(np.float32) for name, array in feeds.items()})


def test_a_norm_of_unknown_rank_is_refused():
    model = ir.from_onnx_text(text())
    model.graph[0].name, model.graph.inputs[0].shape = "first", None
    assert explicit_norm.run(model).refusals == ("RMSNormalization first: its type or its rank is not known",)
