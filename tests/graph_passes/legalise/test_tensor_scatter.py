from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

from graph_passes.legalise import opset, tensor_scatter
from tests.graph_passes.graphs import operators
from tests.graph_passes.legalise.explicit import ran

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
written (float[b,2,9,4] cache, float[b,2,9,4] other, int64[b,t] slots, float[b,2,t,4] rows)
=> (float[b,2,9,4] y, float[b,2,9,4] z)
<int64[1] one = {1}, int64[1] three = {3}>
{
  up = Unsqueeze(slots, one)
  column = Unsqueeze(up, three)
  shape = Shape(rows)
  index = Expand(column, shape)
  y = ScatterElements <axis = 2> (cache, index, rows)
  z = ScatterElements <axis = -2, reduction = "none"> (other, index, rows)
}"""


def model_of(text=TEXT):
    """The text's model; `column` says its shape, as traced graphs do."""
    model = ir.from_onnx_text(text)
    [column] = [value for node in model.graph for value in node.outputs if value.name == "column"]
    column.shape = ir.Shape(["b", 1, "t", 1])
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


@pytest.mark.parametrize("rows", [1, 3])
def test_consecutive_rows_are_one_write(rows):
    model, numbers = model_of(), np.random.default_rng(0)
    shapes = {"cache": (2, 2, 9, 4), "other": (2, 2, 9, 4), "rows": (2, 2, rows, 4)}
    feeds = {name: numbers.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    feeds["slots"] = np.array([[6 - rows], [2]]) + np.arange(rows)
    before = ran(model, feeds)
    run = partial(tensor_scatter.run, consecutive=["slots"])
    assert run(model).rewrites == 2
    assert run(model).rewrites == 0
    assert operators(model) == {"Gather": 1, "TensorScatter": 2}
    assert opset.run(model, 24).refusals == ()
    for got, want in zip(ran(model, feeds), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_one_row_needs_no_promise():
    model = model_of(TEXT.replace("int64[b,t]", "int64[b,1]"))
    assert tensor_scatter.run(model).rewrites == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),  # no promise
        ("index = Expand(column, shape)", "own = Neg(column) index = Expand(own, shape)"),
        ("up = Unsqueeze(slots, one)", "turned = Neg(slots) up = Unsqueeze(turned, one)"),
    ],
)
def test_rows_of_which_nothing_is_known_are_refused(old, new):
    model = model_of(TEXT.replace(old, new) if old else TEXT)
    result = tensor_scatter.run(model, consecutive=["slots"] if old else [])
    says = "ScatterElements y: nothing says that its rows are consecutive"
    assert (result.rewrites, result.refusals[0]) == (0, says)


def test_sums_and_writes_elsewhere_are_none_of_its_business():
    sums = TEXT.replace('reduction = "none"', 'reduction = "add"').replace("axis = 2", "axis = 1")
    result = tensor_scatter.run(model_of(sums), consecutive=["slots"])
    assert (result.rewrites, result.refusals) == (0, ())
