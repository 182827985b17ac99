import time

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from onnx_ir.passes.common import ShapeInferencePass

from graph_passes import mask
from tests.graph_passes.graphs import operators
from tests.graph_passes.graphs import parsed as read
from tests.graph_passes.random_graphs import PROPERTY, equal, evaluate, graphs, unchanged

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
GRAPH = """part (float[b,2,t,8] x, bool[b,t] valid, bool[b,1,t,t] given) => (float[b,2,t,8] y)
<int64 zero = {0}, int64 one = {1}, int64[1] front = {0}, int64[1] ones = {1}, int64[1] last = {-1},
 int64[2] second = {0, -1},
 bool yes = {1}, float nothing = {0}, float lowest = {-3.4028234663852886e38},
 int64[t] places, int64[t,1] rows, int64[1,t] old, int64[1,t] fresh, int64[1,1] head,
 int64[1,1,1] zeros = {0}, int64[t,1,1] none, int64[t,1] again, int64[t,1,2] pairs> {
    size = Shape<start=2, end=3>(x)
    length = Squeeze(size)
    places = Range(zero, length, one)
    rows = Unsqueeze(places, last)
BODY
    y = Attention(x, x, x, mask)
}"""
TRIANGLES = {
    "less or equal": "mask = LessOrEqual(places, rows)",
    "greater or equal": "mask = GreaterOrEqual(rows, places)",
    "not greater": "future = Greater(places, rows)\n mask = Not(future)",
    "not less": "future = Less(rows, places)\n mask = Not(future)",
    "both shifted": "more = Add(rows, one)\n moved = Add(places, one)\n mask = LessOrEqual(moved, more)",
    "with all": "seen = LessOrEqual(places, rows)\n mask = And(seen, yes)",
    "a view": "seen = LessOrEqual(places, rows)\n mask = Unsqueeze(seen, front)",
    "trilu": "two = Concat<axis=0>(size, size)\n trues = ConstantOfShape<value = bool[1] {1}>(two)\n"
    "mask = Trilu<upper=0>(trues)",
    "added": "seen = LessOrEqual(places, rows)\n mask = Where(seen, nothing, lowest)",
    "added future": "future = Greater(places, rows)\n mask = Where(future, lowest, nothing)",
    "added trilu": "two = Concat<axis=0>(size, size)\n"
    "low = ConstantOfShape<value = float[1] {-3.4028234663852886e38}>(two)\n mask = Trilu<upper=1>(low, one)",
}
PACKED = """line = Unsqueeze(places, front)
    head = Slice(line, front, ones, ones, ones)
    before = Sub(head, one)
    long = Concat<axis=-1>(before, line)
    old = Slice(long, front, size, last, ones)
    end = Add(size, ones)
    fresh = Slice(long, ones, end, last, ones)
    step = Sub(fresh, old)
    steady = Equal(step, one)
    apart = Not(steady)
    number = Cast<to=7>(apart)
    packs = CumSum(number, one)
    column = Unsqueeze(packs, last)
    row = Unsqueeze(packs, ones)
    together = Equal(column, row)
    seen = LessOrEqual(places, rows)
    mask = And(seen, together)"""
PICKED = """line = Unsqueeze(places, front)
    tall = Unsqueeze(rows, last)
    shape = Concat<axis=0>(size, ones, ones)
    none = Expand(zeros, shape)
    pairs = Concat<axis=-1>(none, tall)
    again = GatherND(line, pairs)
    mask = LessOrEqual(line, again)"""
TRIANGLES |= {"one pack": PACKED, "picked": PICKED}
KEPT = {
    "strictly less": ("mask = Less(places, rows)", "Less mask is not known to be causal"),
    "turned": ("mask = LessOrEqual(rows, places)", "LessOrEqual mask is not known to be causal"),
    "shifted": ("more = Add(rows, one)\n mask = LessOrEqual(places, more)", "LessOrEqual mask is not known"),
    "padding": (
        "seen = LessOrEqual(places, rows)\n keys = Unsqueeze(valid, second)\n mask = And(seen, keys)",
        "And mask joins causality with keys",
    ),
    "from outside": ("mask = Identity(given)", "given comes from outside the graph"),
    "low, not lowest": (
        "seen = LessOrEqual(places, rows)\n few = Cast<to=1>(one)\n low = Neg(few)\n mask = Where(seen, nothing, low)",
        "LessOrEqual seen is not known",
    ),
}
SOURCE = np.random.default_rng(0)


def parsed(text):
    """The model with the shapes that `fold` leaves in a graph."""
    return ShapeInferencePass(data_prop=True)(read(HEAD + text)).model


def feeds(batch=2, rows=5):
    x = SOURCE.normal(size=(batch, 2, rows, 8)).astype(np.float32)
    valid = np.arange(rows) < np.array([[rows], [rows - 2]])
    return {"x": x, "valid": valid, "given": np.tril(np.ones((batch, 1, rows, rows), bool))}


def attention(model):
    [node] = [node for node in model.graph if node.op_type == "Attention"]
    return node


@pytest.mark.parametrize("form", TRIANGLES)
def test_a_causal_mask_becomes_the_flag(form):
    model, given = parsed(GRAPH.replace("BODY", TRIANGLES[form])), feeds()
    before = evaluate(model, given)
    result = mask.run(model)
    assert (result.rewrites, result.refusals) == (1, ())
    assert operators(model) == {"Attention": 1}
    assert attention(model).attributes["is_causal"].as_int() == 1
    equal(model, given, before)
    assert mask.run(model).rewrites == 0


@pytest.mark.parametrize("form", KEPT)
def test_other_masks_stay_and_are_named(form):
    body, why = KEPT[form]
    model, given = parsed(GRAPH.replace("BODY", body)), feeds()
    before, found = evaluate(model, given), operators(model)
    result = mask.run(model)
    assert why in result.refusals[0]
    assert operators(model)["Attention"] == found["Attention"]
    assert "is_causal" not in attention(model).attributes
    equal(model, given, before)


def written(data):
    """A graph of five rows whose mask is written out."""
    text = "part (float[b,2,5,8] x, float[b,2,k,8] kv) => (float[b,2,5,8] y) { y = Attention(x, x, x) }"
    model = parsed(text)
    value = ir.val("mask", const_value=ir.tensor(data, name="mask"))
    model.graph.register_initializer(value)
    node = attention(model)
    node.resize_inputs(4)
    node.replace_input_with(3, value)
    return model


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_a_mask_written_out_is_looked_at(dtype):
    square = np.tril(np.ones((1, 1, 5, 5), bool))
    data = square if dtype is bool else np.where(square, 0, -np.inf).astype(np.float32)
    given = {"x": feeds()["x"], "kv": feeds()["x"]}
    model = written(data)
    before = evaluate(model, given)
    assert mask.run(model).rewrites == 1
    assert attention(model).attributes["is_causal"].as_int() == 1
    equal(model, given, before)
    odd = data.copy()
    odd[..., 0, 1] = odd[..., 0, 0]
    assert mask.run(written(odd)).rewrites == 0
    everything = np.ones_like(square) if dtype is bool else np.zeros_like(data)
    model = written(everything)
    before = evaluate(model, given)
    assert mask.run(model).rewrites == 1
    assert "is_causal" not in attention(model).attributes
    equal(model, given, before)


def test_more_keys_than_queries_keep_the_mask():
    text = """part (float[b,2,t,8] x, float[b,2,k,8] kv) => (float[b,2,t,8] y)
    <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}, int64[t] places, int64[k] places2> {
        size = Shape<start=2, end=3>(x)
        length = Squeeze(size)
        places = Range(zero, length, one)
        rows = Unsqueeze(places, last)
        size2 = Shape<start=2, end=3>(kv)
        length2 = Squeeze(size2)
        places2 = Range(zero, length2, one)
        mask = LessOrEqual(places2, rows)
        y = Attention(x, kv, kv, mask)
    }"""
    [refusal] = mask.run(parsed(text)).refusals
    assert "is not known to have as many keys as queries" in refusal


def test_layers_share_a_mask_that_stays():
    body = KEPT["padding"][0] + "\n z = Attention(x, x, x, mask)\n seen2 = LessOrEqual(places, rows)\n"
    body += "keys2 = Unsqueeze(valid, second)\n mask2 = And(seen2, keys2)\n"
    text = GRAPH.replace("BODY", body).replace("Attention(x, x, x, mask)\n}", "Attention(z, z, z, mask2)\n}")
    model = parsed(text)
    result = mask.run(model)
    assert result.rewrites == 3
    assert operators(model)["And"] == 1


@PROPERTY
@given(graphs())
def test_random_graphs_keep_their_numbers(case):
    assert not unchanged(mask.run, *case).refusals


def test_time_grows_with_the_layers():
    def took(layers):
        body = TRIANGLES["less or equal"] + "\n"
        body += "\n".join(
            f"x_{n + 1} = Attention(x{f'_{n}' if n else ''}, x{f'_{n}' if n else ''}, x, mask)" for n in range(layers)
        )
        model = parsed(GRAPH.replace("BODY", body).replace("(x, x, x, mask)\n}", f"(x_{layers}, x, x, mask)\n}}"))
        start = time.process_time()
        assert mask.run(model).rewrites == layers + 1
        return time.process_time() - start

    assert took(128) < 32 * 4 * max(took(4), 0.005)
