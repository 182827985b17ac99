"""How rows pass each kind of operator, and where they do not."""

import numpy as np
import pytest

from graph_passes import row_demand
from tests.graph_passes.graphs import operators, outputs
from tests.graph_passes.row_graphs import KEPT, ROW, feeds, made, moved, rows_of

PASSING = {
    "unary": ("z = Gelu(x)", 1),
    "two operands": ("a = Neg(x) \n z = Add(a, x)", 2),
    "a scale for all rows": ("z = Mul(x, scale)", 1),
    "a scale for each row": ("z = Mul(x, table)", 1),
    "a number for each row": ("a = ReduceMean(x, last) \n z = Sub(x, a)", 2),
    "norms": ("a = RMSNormalization(x, scale) \n z = LayerNormalization(a, scale, scale)", 2),
    "product": ("z = MatMul(x, w)", 1),
    "softmax": ("z = Softmax(x)", 1),
    "logical": ("a = Greater(x, half) \n b = Exp(x) \n z = Where(a, b, x)", 3),
    "bounds": ("a = Cast<to=11>(x) \n b = Cast<to=1>(a) \n z = Clip(b, half)", 3),
    "reduction": ("a = Exp(x) \n b = Unsqueeze(a, three) \n z = ReduceMax<keepdims=0>(b, three)", 3),
    "heads and back": (
        """a = Tanh(x) \n b = Reshape(a, heads) \n c = Transpose<perm=[0,2,1,3]>(b) \n d = Exp(c) \n
        e = Transpose<perm=[0,2,1,3]>(d) \n z = Reshape(e, folded)""",
        6,
    ),
    "axes of one": ("a = Tanh(x) \n b = Unsqueeze(a, one) \n c = Exp(b) \n z = Squeeze(c, one)", 4),
    "pieces of other axes": ("a = Neg(x) \n b = Slice(a, zero, two, two) \n z = Concat<axis=2>(b, b)", 3),
    "expanded": ("a = ReduceMean(x, last) \n b = Expand(a, wide) \n z = Div(x, b)", 3),
    "a table": ("a = Abs(x) \n b = ReduceSum<keepdims=0>(a, last) \n c = Cast<to=7>(b) \n z = Gather(table, c)", 4),
    "queries": ("q = Unsqueeze(x, one) \n a = Attention(q, q, q) \n z = Squeeze(a, one)", 2),
}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("form", ["for each batch", "for all", "one row", "a dropped axis"])
def test_rows_pass(tmp_path, name, form):
    body, count = PASSING[name]
    if name == "a table":
        body = body.replace("Cast<to=7>(b)", "Cast<to=7>(b0)").replace("c =", "b0 = Clip(b, half, half) \n c =")
    tails = {"for each batch": KEPT, "one row": ROW, "a dropped axis": "y = Gather<axis=1>(z, first)"}
    tail = tails.get(form, "y = Gather<axis=1>(z, both)")
    sizes = {"one row": "batch,1", "a dropped axis": "batch"}.get(form, "batch,2")
    model = made(f"{body} \n {tail}", outs=f"float[{sizes},4] y")
    size = [1] if form in {"one row", "a dropped axis"} else [2]
    result = moved(model, tmp_path)
    assert result.rewrites == count + (name == "a table")
    assert not result.refusals
    computed = [node for node in model.graph if node.op_type in operators(made(body, outs="float[batch,6,4] z"))]
    heavy = [node for node in computed if node.op_type in {"Gelu", "MatMul", "Exp", "LayerNormalization", "Div"}]
    assert all(node.outputs[0].shape[-2] in size for node in heavy)


REFUSING = {
    "Softmax": ("z = Softmax<axis=1>(x)", "it runs along the wanted rows"),
    "Attention": (
        "q = Unsqueeze(x, one) \n a = Attention<is_causal=1>(q, q, q) \n z = Squeeze(a, one)",
        "a causal mask counts the queries",
    ),
    "Reshape": ("z = Reshape(x0, folded)", "the rows are laid out otherwise before"),
    "Concat": ("a = Slice(x, zero, three, one) \n z = Concat<axis=1>(a, a)", "the rows come from several pieces"),
    "LayerNormalization": ("z = LayerNormalization<axis=1>(x, table)", "the normalised axes are among the wanted"),
    "Transpose": ("z = Transpose<perm=[2,1,0]>(x1)", "the batch comes behind the rows"),
    "ReduceSum": ("z = ReduceSum<noop_with_empty_axes=1>(x)", "its axes are not known"),
    "Slice": ("z = Slice(x2, one, eight, one)", "row numbers may count from the end"),
}


@pytest.mark.parametrize("kind", REFUSING)
def test_what_mixes_rows_or_hides_them_refuses(tmp_path, kind):
    body, reason = REFUSING[kind]
    inputs = "float[batch,6,4] x, int64[batch,2] at"
    inputs += {"Reshape": ", float[batch,4,6] x0", "Transpose": ", float[4,6,batch] x1"}.get(kind, "")
    inputs += ", float[batch,8,4] x2" if kind == "Slice" else ""
    model = made(f"{body} \n {KEPT}", inputs=inputs)
    for node in model.graph:
        node.name = node.op_type
    before = operators(model)
    result = row_demand.run(model)
    assert result.rewrites == 0
    assert result.refusals == (f"{kind} {kind}: {reason}",)
    assert operators(model) == before


@pytest.mark.parametrize("mask", ["batch,1,6,6", "1,1,6,6", "6,6"])
def test_a_mask_gives_the_same_rows(tmp_path, mask):
    """A mask that all batches share has no batch axis to gather along: refused with rows for each batch."""
    body = f"""q = Unsqueeze(x, one) \n a = Attention(q, q, q, m) \n z = Squeeze(a, one) \n {KEPT}"""
    model = made(body, inputs=f"float[batch,6,4] x, int64[batch,2] at, float[{mask}] m")
    result = moved(model, tmp_path)
    shared = mask in {"1,1,6,6", "6,6"}
    assert result.rewrites == (0 if shared else 2)
    assert len(result.refusals) == shared
    one = made(body.replace(KEPT, ROW), inputs=f"float[batch,6,4] x, float[{mask}] m", outs="float[batch,1,4] y")
    assert moved(one, tmp_path).rewrites == 2
    assert rows_of(one, "Attention") == [1]


@pytest.mark.parametrize("tables", ["batch,6,1", "1,6,1"])
def test_rotation_follows(tmp_path, tables):
    body = f"""b = Reshape(x, heads) \n q = Transpose<perm=[0,2,1,3]>(b) \n r = RotaryEmbedding(q, cos, cos) \n
    a = Attention(r, q, q) \n t = Transpose<perm=[0,2,1,3]>(a) \n z = Reshape(t, folded) \n {KEPT}"""
    model = made(body, inputs=f"float[batch,6,4] x, int64[batch,2] at, float[{tables}] cos")
    batch = 3 if tables[0] == "b" else 1
    given = feeds(model, batch)
    before = outputs(model, tmp_path, **given)
    assert row_demand.run(model).rewrites == 4
    np.testing.assert_allclose(outputs(model, tmp_path, **given)[0], before[0], rtol=1e-5, atol=1e-6)
    assert rows_of(model, "RotaryEmbedding") == rows_of(model, "Attention") == [2]
