"""Small graphs over rows, and what row demand must keep of them."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from graph_passes import row_demand
from tests.graph_passes.graphs import outputs, parsed

HEAD = """<ir_version: 10, opset_import: ["" : 23]>
part ({inputs}) => ({outputs})
<int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}, int64[1] last = {{-1}},
 int64[1] four = {{4}}, int64[1] six = {{6}},
 int64[3] merged = {{-1, 6, 16}}, int64 first = {{0}}, int64[3] wide = {{1, 1, 4}}, int64[3] folded = {{-1, 6, 4}},
 float half = {{0.5}}, int64[4] heads = {{-1, 6, 2, 2}}, float[4] scale = {{1, 2, 3, 4}}, int64[2] both = {{1, 4}},
 int64[1] eight = {{8}}, float[6,4] table = {{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24}},
 float[4,4] w = {{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}}> {{
    {body}
}}"""
KEPT = "column = Unsqueeze(at, last) \n y = GatherND<batch_dims=1>(z, column)"
ROW = "y = Slice(z, one, two, one)"


def made(body, inputs="float[batch,6,4] x, int64[batch,2] at", outs="float[batch,2,4] y"):
    """The model of a body over six rows of four numbers, shapes inferred."""
    return inferred(parsed(HEAD.format(inputs=inputs, outputs=outs, body=body)))


def inferred(model):
    """Shapes as tracing leaves them: an axis that a Reshape infers is the batch."""
    model = ShapeInferencePass(data_prop=True)(model).model
    for value in (value for node in model.graph for value in node.outputs):
        if value.shape and not isinstance(value.shape[0], int) and value.shape[0] != "batch":
            value.shape = ir.Shape(["batch", *value.shape[1:]])
    return model


def feeds(model, batch=3):
    """Random numbers for every input; row numbers below 5, another choice for every batch."""
    source = np.random.default_rng(0)
    given = {}
    for value in model.graph.inputs:
        shape = [size if isinstance(size, int) else {"batch": batch}.get(str(size), 6) for size in value.shape]
        if value.dtype == ir.DataType.INT64:
            given[value.name] = source.permuted(np.tile(np.arange(5), (batch, 1)), axis=1)[:, : shape[-1]].reshape(
                shape
            )
        else:
            given[value.name] = source.normal(size=shape).astype(np.float32)
    return given


def moved(model, folder, exact=False):
    """Runs the pass; outputs must stay the same, and a second run must find nothing."""
    given = feeds(model)
    before = outputs(model, folder, **given)
    result = row_demand.run(model)
    after = outputs(model, folder, **given)
    for was, now in zip(before, after, strict=True):
        np.testing.assert_allclose(now, was, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)
    assert row_demand.run(model).rewrites == 0
    ir.load(folder / "part.onnx")
    return result


def rows_of(model, kind):
    """The second-last axis of every node of one kind."""
    return sorted(node.outputs[0].shape[-2] for node in model.graph if node.op_type == kind)
