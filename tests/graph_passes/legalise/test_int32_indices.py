import numpy as np
import onnx_ir as ir

from graph_passes.legalise import int32_indices
from tests.graph_passes.graphs import operators
from tests.graph_passes.legalise.explicit import ran

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
picked (float[b,n] x, int64[b,k] places, int64[b,k] unused) => (float[b,k] y, int64[b,k] again, int64[b,k] more)
<int64 one = {1}>
{
  y = GatherElements <axis = 1> (x, places)
  more = Add(places, one)
  again = Identity(places)
}"""
FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "places": np.array([[2, 0], [1, 1]])}
FEEDS |= {"unused": np.zeros((2, 2), np.int64)}


def narrow(feeds):
    return {name: array.astype(np.int32) if array.dtype == np.int64 else array for name, array in feeds.items()}


def test_borders_are_int32_and_nothing_inside_changes():
    model = ir.from_onnx_text(TEXT)
    before = ran(model, FEEDS)
    assert int32_indices.run(model).rewrites == 4
    assert int32_indices.run(model).rewrites == 0
    assert [value.dtype for value in model.graph.inputs] == [ir.DataType.FLOAT, *[ir.DataType.INT32] * 2]
    assert [value.name for value in model.graph.outputs] == ["y", "again", "more"]
    assert operators(model) == {"Cast": 4, "GatherElements": 1, "Add": 1, "Identity": 1}
    after = ran(model, narrow(FEEDS))
    assert [array.dtype for array in after] == [np.float32, np.int32, np.int32]
    for got, want in zip(after, before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_an_input_that_is_an_output_and_an_output_that_is_read_keep_their_names():
    """The first passes through; the second is computed with as before."""
    text = """<ir_version: 10, opset_import: ["" : 23]>
    kept (int64[b] a) => (int64[b] c, int64[b] d) { c = Neg(a)  d = Abs(c) }"""
    model = ir.from_onnx_text(text)
    model.graph.outputs.append(model.graph.inputs[0])
    assert int32_indices.run(model).rewrites == 3
    assert int32_indices.run(model).rewrites == 0
    assert [value.name for value in model.graph.outputs] == ["c", "d", "a"]
    assert [array.tolist() for array in ran(model, {"a": np.array([3, 4], np.int32)})] == [[-3, -4], [3, 4], [3, 4]]


def test_floats_alone_are_left():
    text = """<ir_version: 10, opset_import: ["" : 23]> f (float[b] a) => (float[b] c) { c = Neg(a) }"""
    assert int32_indices.run(ir.from_onnx_text(text)).rewrites == 0
