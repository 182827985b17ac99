import time

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given

from graph_passes import row_demand
from graph_passes.cost import cost
from tests.graph_passes.graphs import SHARD, operators, parsed, places
from tests.graph_passes.random_graphs import PROPERTY, Sketch, equal, evaluate, graphs, unchanged
from tests.graph_passes.row_graphs import HEAD, KEPT, inferred, made, moved, rows_of


def tower(layers, *, batch="batch", fused=True):
    """A tower whose last layer's output is cut to the 4 of 17 rows that row 0 attended to most one layer before."""
    sketch = Sketch(tokens=17, batch=batch)
    x = sketch.x
    for _ in range(layers - 1):
        x = sketch.layer(x, fused=fused)
    index = sketch.top_k(sketch.cls_scores(x), 4)
    sketch.outputs += [sketch.gather(sketch.layer(x, fused=fused), index, 4), index]
    return sketch.model()


def test_someone_who_reads_all_rows_stops_it(tmp_path):
    model = made(f"z = Gelu(x) \n {KEPT} \n all = ReduceSum(z)", outs="float[batch,2,4] y, float[1,1,1] all")
    before = operators(model)
    assert moved(model, tmp_path).rewrites == 0
    assert operators(model) == before


def test_an_output_of_the_graph_is_read(tmp_path):
    model = made(f"z = Gelu(x) \n {KEPT}", outs="float[batch,2,4] y, float[batch,6,4] z")
    assert moved(model, tmp_path).rewrites == 0


def test_little_to_drop_is_left(tmp_path):
    """Six of seven rows: the gathers would cost what they save."""
    model = made(
        "z = Gelu(x) \n end = Add(six, one) \n y = Slice(z, one, end, one)",
        inputs="float[batch,60,4] x",
        outs="float[batch,59,4] y",
    )
    [value] = [value for value in model.graph.initializers.values() if value.name == "six"]
    value.const_value = ir.tensor(np.array([59]), name="six")
    assert moved(model, tmp_path).rewrites == 0


def test_views_alone_are_left(tmp_path):
    """Nothing is computed upstream: the gather stays where it was."""
    model = made(f"a = Unsqueeze(x, one) \n z = Squeeze(a, one) \n {KEPT}")
    before = operators(model)
    assert moved(model, tmp_path).rewrites == 0
    assert operators(model) == before


def test_several_selections_are_computed_side_by_side(tmp_path):
    body = (
        f"a = MatMul(x, w) \n z = Gelu(a) \n {KEPT} \n r = Slice(z, zero, one, one) \n again = Slice(z, zero, one, one)"
    )
    outs = "float[batch,2,4] y, float[batch,1,4] r, float[batch,1,4] again"
    model = made(body, outs=outs)
    assert moved(model, tmp_path).rewrites == 2
    assert rows_of(model, "MatMul") == rows_of(model, "Gelu") == [1, 2]
    assert [value.name for value in model.graph.outputs] == ["y", "r", "again"]


def test_too_many_selections_are_left(tmp_path):
    slices = "\n".join(
        f"r{n} = Slice(z, {a}, {b}, one)" for n, (a, b) in enumerate([("zero", "three"), ("three", "six")])
    )
    model = made(f"z = Gelu(x) \n {slices}", outs="float[batch,3,4] r0, float[batch,3,4] r1")
    assert moved(model, tmp_path).rewrites == 0


def test_selections_of_selections_become_one(tmp_path):
    """The third and fourth of the rows behind the first are rows four and five."""
    body = "a = Gelu(x) \n z = Slice(a, one, six, one) \n y = Slice(z, two, end, one)"
    model = made(f"end = Add(one, three) \n {body}")
    for node in model.graph:
        if node.op_type == "Add":
            node.outputs[0].const_value = ir.tensor(np.array([4]), name="end")
    assert moved(model, tmp_path, exact=True).rewrites == 2
    assert operators(model)["Slice"] == 1


def test_row_numbers_behind_a_slice_are_shifted(tmp_path):
    """Only if they cannot be negative, as those of TopK."""
    body = """a = Gelu(x) \n z = Slice(a, one, six, one) \n s = ReduceSum<keepdims=0>(x, last) \n
    t = Slice(s, one, six, one) \n best, at = TopK(t, two)"""
    model = made(f"{body} \n {KEPT}", inputs="float[batch,6,4] x")
    assert moved(model, tmp_path, exact=True).rewrites == 2
    assert rows_of(model, "Gelu") == [2]
    assert operators(model)["Slice"] == 1


@pytest.mark.parametrize("form", ["batch", "all", "span"])
def test_groups_of_rows(tmp_path, form):
    """Four rows become one, as where vision towers merge patches: of a group that stays, all four rows are computed."""
    pick = {"batch": KEPT, "all": "y = Gather<axis=1>(z, both)", "span": "y = Slice(z, two, four, one)"}[form]
    body = f"a = Gelu(x) \n g = Reshape(a, merged) \n z = MatMul(g, v) \n {pick}"
    inputs = "float[batch,24,4] x, int64[batch,2] at, float[16,3] v"
    model = made(body, inputs=inputs, outs="float[batch,2,3] y")
    assert moved(model, tmp_path).rewrites == 3
    assert rows_of(model, "Gelu") == [8]
    assert rows_of(model, "MatMul") == [2]


def test_of_pieces_only_those_that_are_wanted_stay(tmp_path):
    body = "a = Gelu(x) \n b = Exp(x) \n z = Concat<axis=1>(a, b, x) \n "
    model = made(body + "end = Add(six, two) \n y = Slice(z, one, three, one)")
    assert moved(model, tmp_path).rewrites == 2
    assert operators(model)["Exp"] == operators(model)["Concat"] == 0
    model = made(body + "start = Sub(six, one) \n end = Add(six, one) \n y = Slice(z, start, end, one)")
    for node in model.graph:
        if node.outputs[0].name in {"start", "end"}:
            node.outputs[0].const_value = ir.tensor(np.array([{"start": 5, "end": 7}[node.outputs[0].name]]))
    assert moved(model, tmp_path).rewrites == 3
    assert operators(model)["Concat"] == 1
    assert rows_of(model, "Gelu") == rows_of(model, "Exp") == [1]


def test_gathers_stand_where_the_batch_leads(tmp_path):
    """In heads the rows are the third axis: the gather moves before the transposition."""
    body = """a = Exp(x) \n k = MatMul(a, w) \n b = MatMul(a, w) \n c = Reshape(b, heads) \n
    d = Transpose<perm=[0,2,1,3]>(c) \n e = Tanh(d) \n f = Transpose<perm=[0,2,1,3]>(e) \n z = Reshape(f, folded)"""
    model = made(f"{body} \n {KEPT}", outs="float[batch,2,4] y, float[batch,6,4] k")
    assert moved(model, tmp_path).rewrites == 6
    [gather] = [node for node in model.graph if node.op_type == "GatherND"]
    assert list(gather.inputs[0].shape)[1:] == [6, 4]
    assert operators(model)["GatherElements"] == 0


def test_where_it_must_stop_among_heads(tmp_path):
    body = """b = Reshape(x, heads) \n d = Transpose<perm=[0,2,1,3]>(b) \n all = Exp(d) \n e = Tanh(all) \n
    f = Transpose<perm=[0,2,1,3]>(e) \n z = Reshape(f, folded)"""
    model = made(f"{body} \n {KEPT}", outs="float[batch,2,4] y, float[batch,2,6,2] all")
    assert moved(model, tmp_path, exact=True).rewrites == 3
    assert operators(model)["GatherElements"] == 1


def test_the_last_row_of_any_number(tmp_path):
    """Text of dynamic length, of which the last row is read: the pattern of a decoder's head."""
    body = """n = Shape(x) \n a = MatMul(x, w) \n b = Gelu(a) \n z = Add(b, x) \n
    column = Unsqueeze(at, last) \n full = Expand(column, wide) \n y = GatherElements<axis=1>(z, full)"""
    model = made(body, inputs="float[batch,tokens,4] x, int64[batch,1] at", outs="float[batch,1,4] y")
    full = next(value for node in model.graph for value in node.outputs if value.name == "full")
    full.shape = ir.Shape(["batch", 1, 4])
    assert moved(model, tmp_path).rewrites == 3
    assert rows_of(model, "MatMul") == rows_of(model, "Gelu") == [1]
    assert operators(model)["GatherElements"] == operators(model)["Expand"] == 0
    assert all(node.outputs[0].shape[0] == "batch" for node in model.graph if node.op_type in {"MatMul", "Gelu"})


def test_bodies_of_loops_read_all(tmp_path):
    body = f"z = Gelu(x) \n yes = Cast<to=9>(first) \n {KEPT}"
    branch = """d = If (yes) <then_branch = then () => (float[batch,6,4] u) { u = Neg(z) },
    else_branch = other () => (float[batch,6,4] v) { v = Exp(z) }>"""
    model = made(f"{body} \n {branch}", outs="float[batch,2,4] y, float[batch,6,4] d")
    assert moved(model, tmp_path).rewrites == 0


def test_old_opsets_are_refused():
    model = made(f"z = Gelu(x) \n {KEPT}")
    model.graph.opset_imports[""] = 12
    assert row_demand.run(model).refusals == ("opset before 13: operators run along other axes",)


def test_weights_in_a_shard_are_not_read(tmp_path):
    text = HEAD.format(
        inputs="float[batch,6,4] x, int64[batch,2] at, float[4,4] v",
        outputs="float[batch,2,4] y",
        body=f"z = MatMul(x, v) \n {KEPT}",
    )
    model = parsed(text, tmp_path, v=np.ones((4, 4), np.float32))
    model = inferred(model)
    outside = places(model)
    (tmp_path / SHARD).unlink()
    assert row_demand.run(model).rewrites == 1
    assert places(model) == outside


@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("fused", [False, True])
def test_the_last_layer_of_a_tower(batch, fused):
    """Queries, output projection and MLP run on kept rows; keys, values and all layers before on all."""
    model = tower(3, batch=batch, fused=fused)
    given = {"x": np.random.default_rng(0).normal(size=(1 if batch == 1 else 3, 17, 8)).astype(np.float32)}
    before, dense = evaluate(model, given), cost(model, {}).flops
    assert row_demand.run(model).rewrites == (17 if fused else 20)
    equal(model, given, before)
    assert cost(model, {}).flops < 0.85 * dense
    assert rows_of(model, "Attention" if fused else "Softmax") == sorted([4, 17, 17] + [1] * (not fused))
    assert operators(model)["GatherND" if batch == "batch" else "Gather"] == 2
    assert all(value.shape[0] == batch for node in model.graph for value in node.outputs if len(value.shape) > 2)


@PROPERTY
@given(graphs())
def test_any_graph_stays_the_same(drawn):
    unchanged(row_demand.run, *drawn)


def test_linear_time():
    """Thirty-two times the layers take about as many times longer."""
    seconds = {}
    for layers in (4, 128):
        model = tower(layers)
        seconds[layers] = []
        for _ in range(3):
            copy = model.clone()
            start = time.process_time()
            assert row_demand.run(copy).rewrites == 17
            seconds[layers].append(time.process_time() - start)
    assert min(seconds[128]) < 32 * 6 * min(seconds[4])
