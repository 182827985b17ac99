import numpy as np
import onnx_ir as ir
import pytest

from graph_passes.cost import Cost, cost
from tests.graph_passes.graphs import parsed

PART = """<ir_version: 10, opset_import: ["" : 23]>
part (float[batch,tokens,8] x, float[8,32] w, float[batch,2,tokens,4] q, float[batch,2,past,4] k) =>
     (float[batch,tokens,32] y, float[batch,2,tokens,4] z, float[batch,tokens,4,8] v)
<int64[4] shape = {0, 0, 4, 8}>
{
    y = MatMul(x, w)
    z = Attention(q, k, k)
    v = Reshape(y, shape)
}"""

LOOP = """<ir_version: 10, opset_import: ["" : 23]>
part (float[4,8] x, float[8,8] w) => (float[4,8] y)
<int64 trips = {5}, bool always = {1}>
{
    y = Loop <body = once (int64 step, bool going, float[4,8] old) => (bool on, float[4,8] new)
    {
        on = Identity(always)
        new = MatMul(old, w)
    }> (trips, , x)
}"""


def test_products_and_attention_at_the_given_sizes():
    model = parsed(PART)
    product, attention = 2 * 8 * 32, 4 * 2 * 4
    one = cost(model, {})
    assert one == Cost(3, product + attention, 4 * (32 + 8))
    some = cost(model, {"batch": 3, "tokens": 5, "past": 7})
    assert some.flops == 3 * 5 * product + 3 * 5 * 7 * attention
    assert some.bytes == 4 * 3 * 5 * (32 + 8)  # a Reshape writes nothing


def test_numbered_axes_count_as_their_stem():
    model = parsed(PART)
    keys = model.graph.inputs[3]
    keys.shape = ir.Shape(["batch", 2, "past.1+tokens", 4])
    plain, longer = cost(model, {"past": 7}), cost(model, {"past": 7, "past.1": 9})
    assert longer.flops - plain.flops == 2 * 4 * 2 * 4


def test_a_loop_counts_as_often_as_it_runs():
    model = parsed(LOOP)
    body = next(iter(model.graph)).attributes["body"].as_graph()
    assert cost(model, {}).flops == 5 * 2 * 4 * 8 * 8
    assert len(body) == 2


def test_half_as_many_bytes_in_sixteen_bits():
    halves = PART.replace("float[", "float16[")
    assert cost(parsed(halves), {}).bytes == cost(parsed(PART), {}).bytes / 2


def test_what_no_shape_is_known_of_is_not_made_up():
    model = parsed(PART)
    model.graph[0].outputs[0].shape = None
    assert cost(model, {}) == Cost(3, None, None)
    model = parsed(PART)
    model.graph[2].outputs[0].shape = None  # nothing is computed there
    assert cost(model, {}).flops is not None


def test_a_convolution():
    text = """<ir_version: 10, opset_import: ["" : 23]>
    part (float[1,3,8,8] x, float[16,3,4,4] w) => (float[1,16,2,2] y) { y = Conv <strides = [4, 4]> (x, w) }"""
    assert cost(parsed(text), {}).flops == pytest.approx(2 * np.prod([16, 2, 2]) * 3 * 4 * 4)
