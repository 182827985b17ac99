import numpy as np

from graph_passes import fuse
from tests.graph_passes.graphs import operators, outputs, parsed, places

NORM = """<ir_version: 10, opset_import: ["" : 23]>
part (float[n,t,8] x, float[8] w) => (float[n,t,8] y)
<float two = {2}, int64[1] last = {-1}, float tiny = {0.00001}> {
    square = Pow(x, two)
    mean = ReduceMean<keepdims=1, noop_with_empty_axes=0>(square, last)
    safe = Add(mean, tiny)
    root = Sqrt(safe)
    inverse = Reciprocal(root)
    normed = Mul(x, inverse)
    y = Mul(w, normed)
}"""

ROTARY = """<ir_version: 10, opset_import: ["" : 23]>
part (float[n,2,t,8] x, int64[n,t] places) => (float[n,2,t,8] y)
<float[1,4,1] speeds = {1, 0.1, 0.01, 0.001}, int64[1] one = {1}, int64[1] zero = {0}, int64[1] three = {3},
 int64[1] half = {4}, int64[1] end = {9223372036854775807}> {
    rows = Unsqueeze(places, one)
    steps = Cast<to=1>(rows)
    turned = MatMul(speeds, steps)
    angles = Transpose<perm=[0, 2, 1]>(turned)
    both = Concat<axis=-1>(angles, angles)
    cos_all = Cos(both)
    sin_all = Sin(both)
    cos = Unsqueeze(cos_all, one)
    sin = Unsqueeze(sin_all, one)
    straight = Mul(x, cos)
    left = Slice(x, zero, half, three, one)
    right = Slice(x, half, end, three, one)
    minus = Neg(right)
    swapped = Concat<axis=-1>(minus, left)
    across = Mul(swapped, sin)
    y = Add(straight, across)
}"""


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_rms_norm_becomes_one_node_and_keeps_its_weight_in_the_shard(tmp_path):
    model, inputs = parsed(NORM, tmp_path, w=1 + draw(8)), {"x": draw(2, 3, 8)}
    [before], outside = outputs(model, tmp_path, **inputs), places(model)
    result = fuse.run(model)
    assert (result.rewrites, result.modified) == (1, True)
    assert operators(model) == {"RMSNormalization": 1}
    assert places(model) == outside
    assert outside.keys() == {"w"}
    np.testing.assert_allclose(outputs(model, tmp_path, **inputs)[0], before, rtol=1e-5, atol=1e-6)


def test_rotary_embedding_becomes_one_node(tmp_path):
    model, inputs = parsed(ROTARY), {"x": draw(2, 2, 5, 8), "places": np.array([[0, 1, 2, 3, 4], [3, 4, 9, 0, 0]])}
    [before] = outputs(model, tmp_path, **inputs)
    assert fuse.run(model).rewrites == 1
    assert operators(model)["RotaryEmbedding"] == 1
    assert operators(model)["Slice"] == operators(model)["Neg"] == 0
    np.testing.assert_allclose(outputs(model, tmp_path, **inputs)[0], before, rtol=1e-5, atol=1e-6)


def test_what_only_looks_alike_is_left_alone(tmp_path):
    """A mean over another axis is no RMS norm."""
    text = NORM.replace("last = {-1}", "last = {1}")
    model, inputs = parsed(text, tmp_path, w=draw(8)), {"x": draw(2, 3, 8)}
    [before], found = outputs(model, tmp_path, **inputs), operators(model)
    assert fuse.run(model).rewrites == 0
    assert operators(model) == found
    np.testing.assert_array_equal(outputs(model, tmp_path, **inputs)[0], before)


def test_a_second_run_finds_nothing(tmp_path):
    for model in (parsed(NORM, tmp_path, w=draw(8)), parsed(ROTARY)):
        fuse.run(model)
        found, again = operators(model), fuse.run(model)
        assert (again.rewrites, again.modified, again.refusals) == (0, False, ())
        assert operators(model) == found
