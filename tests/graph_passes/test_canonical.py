import time

import numpy as np
import pytest
from hypothesis import given
from onnx_ir.passes.common import ShapeInferencePass

from graph_passes import canonical
from tests.graph_passes.graphs import operators, outputs
from tests.graph_passes.graphs import parsed as read
from tests.graph_passes.random_graphs import PROPERTY, evaluate, graphs, layered, unchanged

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
ROWS = """part (float[b,9,4] x, int64[b,3] i) => (float[b,3,4] y)
<int64[1] last = {-1}, int64[3] wide = {1, 1, 4}, int64[b,3,4] index> {
    column = Unsqueeze(i, last)
    index = Expand(column, wide)
    y = GatherElements<axis=1>(x, index)
}"""
MEASURED = """part (float[b,2,9,4] x, int64[b,2,3] i) => (float[b,2,3,4] y)
<int64[4] four = {-1, 2, 3, 1}, int64[3] tail = {2, 3, 4}, int64[b,2,3,1] column, int64[b,2,3,4] index> {
    column = Reshape(i, four)
    batch = Shape<start=0, end=1>(x)
    wide = Concat<axis=0>(batch, tail)
    index = Expand(column, wide)
    y = GatherElements<axis=2>(x, index)
}"""
TAIL = """part (float[b,9,4,2] x, int64[b,3] i) => (float[b,3,4,2] y, float[b,3,4,2] z)
<int64[2] last = {-1, -2}, int64[4] wide = {1, 1, 4, 2}> {
    column = Unsqueeze(i, last)
    index = Expand(column, wide)
    y = GatherElements<axis=1>(x, index)
    column2 = Unsqueeze(i, last)
    index2 = Expand(column2, wide)
    twice = Add(x, x)
    z = GatherElements<axis=1>(twice, index2)
}"""
CHAIN = """part (float[b,9,4] x, int64[b,3] i, int64[b,2] j) => (float[b,2,4] y)
<int64[1] last = {-1}> {
    column = Unsqueeze(i, last)
    kept = GatherND<batch_dims=1>(x, column)
    column2 = Unsqueeze(j, last)
    y = GatherND<batch_dims=1>(kept, column2)
}"""
CONSTANTS = """part (float[b,9,4] x) => (float[b,2,4] y)
<int64[4] i = {7, 1, 5, -1}, int64[2] j = {2, -4}> {
    kept = Gather<axis=1>(x, i)
    y = Gather<axis=-2>(kept, j)
}"""
SOURCE = np.random.default_rng(0)
X = SOURCE.normal(size=(2, 9, 4)).astype(np.float32)
ROW, J = np.array([[8, 0, 3], [1, 1, 2]]), np.array([[2, 0], [1, 2]])


def parsed(text):
    """The model with the shapes that `fold` leaves in a graph."""
    return ShapeInferencePass(data_prop=True)(read(HEAD + text)).model


def changed(text, folder, rewrites, found, **inputs):
    """Run the pass: equal numbers, these operators, and a second run finds nothing."""
    model = parsed(text)
    before = outputs(model, folder, **inputs)
    result = canonical.run(model)
    assert (result.rewrites, operators(model)) == (rewrites, found)
    for got, want in zip(outputs(model, folder, **inputs), before, strict=True):
        np.testing.assert_array_equal(got, want)
    again = canonical.run(model)
    assert (again.rewrites, again.refusals) == (0, result.refusals)
    return result.refusals


def test_rows_gathered_by_an_expanded_index_become_one_gather_nd(tmp_path):
    assert not changed(ROWS, tmp_path, 1, {"Unsqueeze": 1, "GatherND": 1}, x=X, i=ROW)
    assert not changed(ROWS, tmp_path, 1, {"Unsqueeze": 1, "GatherND": 1}, x=X, i=ROW - 9)  # from the end


def test_what_measured_the_index_goes_with_it(tmp_path):
    x, i = np.stack([X, 2 * X], 1), np.stack([ROW, ROW[::-1]], 1)
    assert not changed(MEASURED, tmp_path, 1, {"Unsqueeze": 1, "GatherND": 1}, x=x, i=i)


def test_gathers_of_one_index_share_its_column(tmp_path):
    x = np.stack([X, X + 1], -1)
    assert not changed(TAIL, tmp_path, 2, {"Unsqueeze": 1, "GatherND": 2, "Add": 1}, x=x, i=ROW)


def test_equal_gathers_are_one(tmp_path):
    text = TAIL.replace("twice = Add(x, x)", "twice = Identity(x)").replace("(twice, index2)", "(x, index2)")
    model = parsed(text)
    x = np.stack([X, X + 1], -1)
    before = outputs(model, tmp_path, x=x, i=ROW)
    canonical.run(model)
    assert operators(model)["Unsqueeze"] == 1
    np.testing.assert_array_equal(outputs(model, tmp_path, x=x, i=ROW)[1], before[1])


def test_rows_of_rows_are_taken_from_the_source(tmp_path):
    found = {"GatherElements": 1, "Unsqueeze": 1, "GatherND": 1}
    assert not changed(CHAIN, tmp_path, 1, found, x=X, i=ROW, j=J)
    assert not changed(CONSTANTS, tmp_path, 1, {"Gather": 1}, x=X)


def test_rows_that_someone_else_reads_stay(tmp_path):
    text = CHAIN.replace("(float[b,2,4] y)", "(float[b,2,4] y, float[b,3,4] kept)")
    assert not changed(text, tmp_path, 0, {"Unsqueeze": 2, "GatherND": 2}, x=X, i=ROW, j=J)


def test_single_values_stay(tmp_path):
    text = "part (float[b,9] x, int64[b,3] i) => (float[b,3] y) { y = GatherElements<axis=-1>(x, i) }"
    assert not changed(text, tmp_path, 0, {"GatherElements": 1}, x=X[..., 0], i=ROW)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float"])
def test_scores_are_ranked_in_fp32(kind):
    text = f"""part ({kind}[b,9] scores) => ({kind}[b,3] best, int64[b,3] kept)
    <int64[1] k = {{3}}> {{ best, kept = TopK(scores, k) }}"""
    model = parsed(text)
    assert canonical.run(model).rewrites == (kind != "float")
    [node] = [node for node in model.graph if node.op_type == "TopK"]
    assert node.inputs[0].dtype.name == "FLOAT"
    assert [(v.name, v.dtype.name) for v in model.graph.outputs] == [("best", kind.upper()), ("kept", "INT64")]
    if kind != "bfloat16":
        scores = X[..., 0].astype({"float": "float32"}.get(kind, kind))
        best, kept = evaluate(model, {"scores": scores})
        np.testing.assert_array_equal(kept, np.argsort(-scores, kind="stable")[:, :3])
        np.testing.assert_array_equal(best, np.take_along_axis(scores, kept, 1))
    assert canonical.run(model).rewrites == 0


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("wide = {1, 1, 4}, int64[b,3,4] index", "wide = {1, 1, 3}", "does not cover whole rows"),
        ("index = Expand(column, wide)", "index = Tile(column, wide)", "no expansion of one index a row"),
        ("float[b,9,4] x", "float[c,9,4] x", "does not cover whole rows"),
    ],
)
def test_other_gathers_stay_and_are_named(tmp_path, old, new, why):
    text = ROWS.replace(old, new).replace("[b,3,4] y", "[b,3,d] y")
    model = parsed(text)
    [refusal] = canonical.run(model).refusals
    assert refusal.startswith("GatherElements y stays: ")
    assert why in refusal
    assert operators(model)["GatherElements"] == 1


@PROPERTY
@given(graphs())
def test_random_graphs_keep_their_numbers(case):
    model, feeds = case
    assert not unchanged(canonical.run, model, feeds).refusals
    assert not [n for n in model.graph if n.op_type == "GatherElements" and len(n.outputs[0].shape) > 2]


def test_time_grows_with_the_layers():
    def took(layers):
        model = layered(layers)
        start = time.process_time()
        assert canonical.run(model).rewrites == 1
        return time.process_time() - start

    assert min(took(128) for _ in range(3)) < 32 * 4 * max(took(4), 0.005)  # the collector may come by
