import time

import numpy as np
import pytest
from hypothesis import given
from onnx_ir.passes.common import ShapeInferencePass

from graph_passes import static
from tests.graph_passes.graphs import operators, outputs
from tests.graph_passes.graphs import parsed as read
from tests.graph_passes.random_graphs import PROPERTY, graphs, layered, unchanged

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
CONSTANTS = "<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] front = {0}, int64[2] tail = {2, 3}> {"


LOOP = """n = ReduceMax<keepdims=0>(i)
    y = Loop<body = b (int64 s, bool c) => (bool d, int64 e) {
        d = Identity(c)
        e = Identity(s)
    }>(n, )"""


def parsed(text):
    """The model with the shapes that `fold` leaves in a graph."""
    return ShapeInferencePass(data_prop=True)(read(HEAD + text.replace("CONSTANTS", CONSTANTS))).model


def changed(text, folder, found, **inputs):
    """Run the pass: equal numbers, these operators, and a second run finds nothing; returns the rewrites."""
    model = parsed(text)
    before = outputs(model, folder, **inputs)
    result = static.run(model)
    assert operators(model) == found
    assert not result.refusals
    for got, want in zip(outputs(model, folder, **inputs), before, strict=True):
        np.testing.assert_array_equal(got, want)
    assert static.run(model).rewrites == 0
    static.check(model)
    return result.rewrites


def test_a_fixed_axis_is_a_constant(tmp_path):
    text = """part (float[b,4,6] x) => (float[b,4,6] y) CONSTANTS
        sizes = Shape(x)
        width = Gather(sizes, two)
        half = Div(width, two)
        number = Mul(width, two)
        scale = Cast<to=1>(number)
        y = Mul(x, scale)
    }"""
    assert changed(text, tmp_path, {"Cast": 1, "Mul": 1}, x=X) == 2


@pytest.mark.parametrize("allowzero", [0, 1])
def test_the_target_of_a_reshape_copies_dynamic_axes(tmp_path, allowzero):
    text = f"""part (float[b,t,6] x) => (float[b,t,2,3] y) CONSTANTS
        sizes = Shape(x)
        batch = Gather(sizes, zero)
        first = Unsqueeze(batch, front)
        second = Shape<start=1, end=2>(x)
        target = Concat<axis=0>(first, second, tail)
        y = Reshape<allowzero={allowzero}>(x, target)
    }}"""
    model = parsed(text)
    assert changed(text, tmp_path, {"Reshape": 1}, x=X) > 0
    static.run(model)
    [node] = model.graph
    assert node.inputs[1].const_value.numpy().tolist() == [0, 0, 2, 3]


def test_an_axis_that_moves_is_inferred_if_it_is_the_only_one(tmp_path):
    text = """part (float[4,b,6] x) => (float[b,4,2,3] y) <int64[3] tail = {4, 2, 3}> {
        batch = Shape<start=1, end=2>(x)
        target = Concat<axis=0>(batch, tail)
        y = Reshape(x, target)
    }"""
    assert changed(text, tmp_path, {"Reshape": 1}, x=X.transpose(1, 0, 2)) == 1
    two = text.replace("[4,b,6]", "[t,b,6]").replace("[3] tail = {4,", "[2] tail = {")
    two = two.replace("[b,4,2,3] y", "[b,t,2,3] y").replace("(batch, tail)", "(batch, other, tail)")
    two = two.replace("target =", "other = Shape<start=0, end=1>(x)\n        target =")
    assert changed(two, tmp_path, {"Shape": 2, "Concat": 1, "Reshape": 1}, x=X.transpose(1, 0, 2)) == 0


def test_an_expand_leaves_dynamic_axes_alone(tmp_path):
    text = """part (float[b,1,6] x) => (float[b,4,6] y) <int64[2] tail = {4, 6}> {
        batch = Shape<start=0, end=1>(x)
        target = Concat<axis=0>(batch, tail)
        y = Expand(x, target)
    }"""
    assert changed(text, tmp_path, {"Expand": 1}, x=X[:, :1]) == 1


def test_a_range_over_known_numbers_is_a_constant(tmp_path):
    text = """part (float[b,4,6] x) => (float[b,4,6] y) CONSTANTS
        sizes = Shape(x)
        width = Gather(sizes, two)
        numbers = Range(zero, width, one)
        steps = Cast<to=1>(numbers)
        y = Add(x, steps)
    }"""
    assert changed(text, tmp_path, {"Cast": 1, "Add": 1}, x=X) == 2


def test_a_dynamic_axis_is_measured_once_at_an_input(tmp_path):
    text = """part (float[b,t,6] x) => (int64[t] y, int64[t] z) CONSTANTS
        wide = Add(x, x)
        sizes = Shape(wide)
        length = Gather(sizes, one)
        y = Range(zero, length, one)
        other = Exp(x)
        sizes2 = Shape<start=1, end=2>(other)
        length2 = Squeeze(sizes2)
        z = Range(zero, length2, two)
    }""".replace("int64[t] z", "int64[u] z")
    model = parsed(text)
    result = static.run(model)
    assert result.rewrites >= 2
    assert operators(model) == {"Shape": 1, "Squeeze": 1, "Range": 2}
    [shape] = [node for node in model.graph if node.op_type == "Shape"]
    assert shape.inputs[0] is model.graph.inputs[0]
    assert static.run(model).rewrites == 0
    for got, want in zip(outputs(model, tmp_path, x=X), [np.arange(4), np.arange(0, 4, 2)], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = NonZero(x)", "NonZero y: the shape of its output depends on data"),
        ("sizes = Shape<start=1, end=2>(x)\n y = Cast<to=7>(sizes)", None),
        (
            LOOP,
            "Loop y: its trip count is computed",
        ),
    ],
)
def test_what_is_not_static_is_named(body, why):
    text = f"part (float[b,4] x, int64[2] i) => (int64[?] y) {{ {body} }}"
    model = parsed(text)
    refusals = static.run(model).refusals
    assert refusals == ((why,) if why else ())
    if why:
        with pytest.raises(ValueError, match=why):
            static.check(model)
    else:
        static.check(model)


def test_check_names_what_still_measures_a_fixed_axis():
    model = parsed("part (float[b,4,6] x) => (int64[2] y) { y = Shape<start=1>(x) }")
    with pytest.raises(ValueError, match="graph part is not static: Shape y: measures an axis of x that is fixed"):
        static.check(model)


def test_the_residue_does_not_grow_with_the_layers():
    found = []
    for layers in (2, 4, 8):
        model = layered(layers, measured=True)
        static.run(model)
        found.append({name: operators(model)[name] for name in ("Shape", "Concat", "Range")})
        assert found[-1]["Shape"] <= 1
    assert found[0] == found[1] == found[2]


@PROPERTY
@given(graphs())
def test_random_graphs_keep_their_numbers(case):
    model, feeds = case
    assert not unchanged(static.run, model, feeds).refusals
    assert operators(model)["Shape"] <= 1


def test_time_grows_with_the_layers():
    def took(layers):
        model = layered(layers, measured=True)
        start = time.process_time()
        assert static.run(model).rewrites > layers
        return time.process_time() - start

    assert took(128) < 32 * 4 * max(took(4), 0.005)
