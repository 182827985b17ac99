import time

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from onnx_ir.passes.common import ShapeInferencePass

from graph_passes import rotary
from tests.graph_passes.graphs import operators
from tests.graph_passes.graphs import parsed as read
from tests.graph_passes.random_graphs import PROPERTY, equal, evaluate, graphs, unchanged

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
TABLES = """
    column = Unsqueeze(places, two)
    steps = Cast<to=1>(column)
    angles = Mul(steps, speeds)
    both = Concat<axis=-1>(angles, angles)
    cos_wide = Cos(both)
    sin_wide = Sin(both)
    cos_more = Mul(cos_wide, scaling)
    sin_more = Mul(scaling, sin_wide)
    cos_all = Cast<to={to}>(cos_more)
    sin_all = Cast<to={to}>(sin_more)
"""
TURN = """
    cos_{n} = Unsqueeze(cos_all, one)
    sin_{n} = Unsqueeze(sin_all, one)
    straight_{n} = Mul({x}, cos_{n})
    left_{n} = Slice({x}, zero, half, three, one)
    right_{n} = Slice({x}, half, end, three, one)
    minus_{n} = Neg(right_{n})
    swapped_{n} = Concat<axis=-1>(minus_{n}, left_{n})
    across_{n} = Mul(swapped_{n}, sin_{n})
    {y} = Add({order})
"""
GRAPH = """part ({kind}[b,2,t,8] x, int64[b,t] places) => ({kind}[b,2,t,8] y)
<float[4] speeds = {{1, 0.1, 0.01, 0.001}}, float scaling = {{1.5}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
 int64[1] two = {{2}}, int64[1] three = {{3}}, int64[1] half = {{4}}, int64[1] end = {{9223372036854775807}}> {{
{body} }}"""
DTYPES = {"float": 1, "float16": 10}


def graph(kind="float16", layers=1):
    """`layers` rotations one behind the other, tables in fp32."""
    body = TABLES.format(to=DTYPES[kind])
    for n in range(layers):
        names = {"x": f"y_{n}" if n else "x", "y": "y" if n == layers - 1 else f"y_{n + 1}"}
        order = f"straight_{n}, across_{n}" if n % 2 else f"across_{n}, straight_{n}"
        body += TURN.format(n=n, order=order, **names)
    return GRAPH.format(kind=kind, body=body)


def parsed(text):
    """The model with the shapes that `fold` leaves in a graph."""
    return ShapeInferencePass(data_prop=True)(read(HEAD + text)).model


def feeds(kind="float16", batch=2):
    source = np.random.default_rng(0)
    dtype = {"float": "float32"}.get(kind, kind)
    x = source.normal(size=(batch, 2, 5, 8)).astype(dtype)
    return {"x": x, "places": source.integers(0, 50, size=(batch, 5))}


@pytest.mark.parametrize(("kind", "tolerance"), [("float", 1e-6), ("float16", 4e-3)])
def test_a_rotation_behind_casts_is_one_node(kind, tolerance):
    model, given = parsed(graph(kind)), feeds(kind)
    [before] = evaluate(model, given)
    result = rotary.run(model)
    assert result.rewrites == 1
    assert not result.refusals
    found = operators(model)
    assert {name: found[name] for name in ("RotaryEmbedding", "Cos", "Sin", "Concat", "Slice", "Neg")} == {
        "RotaryEmbedding": 1,
        "Cos": 1,
        "Sin": 1,
        "Concat": 0,
        "Slice": 0,
        "Neg": 0,
    }
    [after] = evaluate(model, given)
    assert after.dtype == before.dtype
    np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance)
    assert rotary.run(model).rewrites == 0


def test_layers_share_one_table():
    model = parsed(graph(layers=6))
    assert rotary.run(model).rewrites == 6
    found = operators(model)
    assert (found["RotaryEmbedding"], found["Cos"], found["Sin"], found["Cast"]) == (6, 1, 1, 3)


def test_tables_of_layers_become_one_and_are_counted():
    text = """part (float[b,2,t,8] x, float[b,t,4] angles) => (float[b,2,t,8] y) {
        cos = Cos(angles)
        sin = Sin(angles)
        once = RotaryEmbedding<interleaved=0, num_heads=2>(x, cos, sin)
        cos2 = Cos(angles)
        sin2 = Sin(angles)
        y = RotaryEmbedding<interleaved=0, num_heads=2>(once, cos2, sin2)
    }"""
    model = parsed(text)
    assert rotary.run(model).rewrites == 2
    assert operators(model) == {"Cos": 1, "Sin": 1, "RotaryEmbedding": 2}


@pytest.mark.parametrize("same", [True, False])
def test_a_table_in_the_file_is_cut_in_half_if_its_halves_are_equal(same):
    text = graph("float").replace("[b,2,t,8]", "[1,2,5,8]").replace("[b,t]", "[1,5]")
    model = parsed(text)
    angles = np.random.default_rng(1).normal(size=(2, 1, 1, 5, 4)).astype(np.float32)
    for name, half in zip(("cos_0", "sin_0"), angles, strict=True):
        [value] = [v for node in model.graph for v in node.outputs if v.name == name]
        data = np.concatenate([half, half if same else 2 * half], -1)
        written = ir.val(f"{name}_written", const_value=ir.tensor(data, name=f"{name}_written"))
        model.graph.register_initializer(written)
        ir.convenience.replace_all_uses_with(value, written)
    given = feeds("float", batch=1)
    before = evaluate(model, given)
    result = rotary.run(model)
    assert (operators(model) == {"RotaryEmbedding": 1}) == same
    assert bool(result.refusals) != same
    equal(model, given, before)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("int64[b,t] places", "int64[1,t] places", "broadcast over the batch"),
        ("Concat<axis=-1>(angles, angles)", "Concat<axis=-1>(angles, twice)", "not known to be equal"),
        ("x, int64", "w, int64", "known number of heads"),
        ("cos_0 = Unsqueeze(cos_all, one)", "cos_0 = Identity(cos_all)", "is not [batch, 1, tokens, width]"),
    ],
)
def test_other_rotations_stay_and_are_named(old, new, why):
    text = graph("float").replace(old, new)
    if "twice" in new:
        text = text.replace("    both =", "    twice = Add(angles, angles)\n    both =")
    if "w, int64" in new:
        text = text.replace("[b,2,t,8] w", "[b,h,t,8] w").replace("    column =", "    x = Identity(w)\n    column =")
    model = parsed(text)
    before = operators(model)
    [refusal] = rotary.run(model).refusals
    assert refusal.startswith("rotation y stays: ")
    assert why in refusal
    assert operators(model) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("half, three, one)", "three, three, one)"),
        ("Neg(right_0)", "Neg(left_0)"),
        ("minus_0, left_0", "left_0, minus_0"),
    ],
)
def test_what_only_looks_alike_is_left_alone(old, new):
    model = parsed(graph("float").replace(old, new))
    assert not rotary.run(model).refusals
    assert operators(model)["RotaryEmbedding"] == 0


@PROPERTY
@given(graphs())
def test_random_graphs_keep_their_numbers(case):
    assert not unchanged(rotary.run, *case).refusals


def test_time_grows_with_the_layers():
    def took(layers):
        model = parsed(graph(layers=layers))
        start = time.process_time()
        assert rotary.run(model).rewrites == layers
        return time.process_time() - start

    assert took(128) < 32 * 4 * max(took(4), 0.005)
