"""One form for every selection: fp32 scores, rows gathered by GatherND, one index where there were many."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import convenience

from graph_passes.base import PassResult
from graph_passes.edit import constant, dims, integer, integers, is_op, known, made, put_after, replace, tidy

NARROW = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
WIDE = ir.DataType.FLOAT


def run(model: ir.Model) -> PassResult:
    """Bring scores and gathers into one form.

    TopK ranks fp32 scores: every narrower float is one, so order and ties stay. `GatherElements(x, index)` whose
    `index` repeats one `[B,..,K]` index along the features becomes `GatherND(x, [B,..,K,1])` over the same batch axes;
    single values (`[B,N]` by `[B,K]`) stay GatherElements. A gather of gathered rows that no one else reads takes its
    rows from the source, by an index of an index. Equal gathers, and what built their indices, are one. Negative
    indices mean the same in all these operators.
    """
    graph = model.graph
    rewrites, refusals = 0, []
    columns: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if is_op(node, "TopK"):
            rewrites += _widened(graph, node)
        elif is_op(node, "GatherElements"):
            reason = _row_gather(graph, node, columns)
            rewrites += reason is None
            refusals += [f"GatherElements {node.outputs[0].name} stays: {reason}"] if reason else []
    rewrites += sum(_shortened(graph, node, columns) for node in list(graph))
    return PassResult(tidy(model, rewrites), tuple(refusals))


def _widened(graph: ir.Graph, node: ir.Node) -> bool:
    """Cast the scores of one TopK to fp32, and its values back if someone reads them."""
    scores, (values, _) = node.inputs[0], node.outputs
    if scores is None or scores.dtype not in NARROW:
        return False
    narrow = scores.dtype
    wide = made("Cast", [scores], f"{values.name}_scores", (WIDE, dims(scores)), {"to": int(WIDE)})
    graph.insert_before(node, _node(wide))
    node.replace_input_with(0, wide)
    if values.uses() or values.is_graph_output():
        back = made("Cast", [], f"{values.name}_narrow", (narrow, dims(values)), {"to": int(narrow)})
        convenience.replace_all_uses_with(values, back, replace_graph_outputs=True)
        values.name, back.name = back.name, values.name
        _node(back).resize_inputs(1)
        _node(back).replace_input_with(0, values)
        graph.insert_after(node, _node(back))
    values.dtype = WIDE
    return True


def _row_gather(graph: ir.Graph, node: ir.Node, columns: dict[ir.Value, ir.Value]) -> str | None:
    """Turn one GatherElements into GatherND; returns why not, "" for the form of single values."""
    data, index = node.inputs
    if data is None or index is None:
        return "it lacks an input"
    rows, spread = dims(data), dims(index)
    if rows is None or spread is None:
        return "the rank of its data or index is unknown"
    axis = integer(node, "axis", 0) % len(rows)
    if axis == len(rows) - 1:
        return ""
    if rows[:axis] + rows[axis + 1 :] != spread[:axis] + spread[axis + 1 :] or None in rows[:axis] + rows[axis + 1 :]:
        return "its index does not cover whole rows"
    narrow = _before_expand(index)
    flat = None if narrow is None else dims(narrow)
    if narrow is None or flat is None or flat != spread[: axis + 1] + [1] * (len(spread) - axis - 1):
        return "its index is no expansion of one index a row"
    column = _column(graph, narrow, axis + 1, columns)
    out = node.outputs[0]
    new = made("GatherND", [data, column], f"{out.name}_rows", (out.dtype, dims(out)), {"batch_dims": axis})
    replace(graph, out, new)
    return None


def _before_expand(index: ir.Value) -> ir.Value | None:
    """What the features' copies were made from; an index whose features are one number wide is that itself."""
    node = index.producer()
    return node.inputs[0] if node is not None and is_op(node, "Expand") else index


def _column(graph: ir.Graph, narrow: ir.Value, rank: int, columns: dict[ir.Value, ir.Value]) -> ir.Value:
    """The index `[..,K,1]`, once for each index `[..,K]` that `narrow` `[..,K,1,..]` is a view of."""
    source = narrow
    wanted = (dims(narrow) or [])[:rank]
    while (node := source.producer()) is not None and is_op(node, "Reshape", "Unsqueeze", "Identity"):
        assert node.inputs[0] is not None
        source = node.inputs[0]
        if dims(source) == wanted:
            return _unsqueezed(graph, source, columns)
    if len(dims(narrow) or []) == rank + 1:
        return narrow
    axes = integers(graph, range(rank, len(dims(narrow) or [])))
    flat = made("Squeeze", [narrow, axes], f"{narrow.name}_flat", (narrow.dtype, wanted))
    put_after(graph, narrow, flat)
    return _unsqueezed(graph, flat, columns)


def _unsqueezed(graph: ir.Graph, index: ir.Value, columns: dict[ir.Value, ir.Value]) -> ir.Value:
    if index not in columns:
        last = integers(graph, [-1])
        shape = dims(index)
        column = made(
            "Unsqueeze", [index, last], f"{index.name}_column", (index.dtype, None if shape is None else [*shape, 1])
        )
        put_after(graph, index, column)
        columns[index] = column
    return columns[index]


def _shortened(graph: ir.Graph, outer: ir.Node, columns: dict[ir.Value, ir.Value]) -> bool:
    """Let a gather of gathered rows that no one else reads take them from the source."""
    middle = outer.inputs[0] if is_op(outer, "GatherND", "Gather") else None
    inner = None if middle is None else middle.producer()
    if middle is None or inner is None or inner.op_type != outer.op_type or inner.domain != outer.domain:
        return False
    if len(middle.uses()) > 1 or middle.is_graph_output() or inner.graph is not graph:
        return False
    index = _of_rows(graph, inner, outer, columns) if outer.op_type == "GatherND" else _of_axis(graph, inner, outer)
    if index is None:
        return False
    outer.replace_input_with(0, inner.inputs[0])
    outer.replace_input_with(1, index)
    return True


def _of_rows(graph: ir.Graph, inner: ir.Node, outer: ir.Node, columns: dict[ir.Value, ir.Value]) -> ir.Value | None:
    first, second = _flat_index(inner), _flat_index(outer)
    batch = integer(inner, "batch_dims", 0)
    if first is None or second is None or integer(outer, "batch_dims", 0) != batch:
        return None
    ranks = {len(dims(first) or []), len(dims(second) or [])}
    if ranks != {batch + 1}:
        return None
    name = f"{outer.outputs[0].name}_index"
    both = made("GatherElements", [first, second], name, (first.dtype, dims(second)), {"axis": batch})
    graph.insert_before(outer, _node(both))
    return _unsqueezed(graph, both, columns)


def _flat_index(node: ir.Node) -> ir.Value | None:
    """`[..,K]` of a GatherND whose index `[..,K,1]` is an Unsqueeze of it."""
    column = node.inputs[1]
    maker = None if column is None else column.producer()
    if column is None or maker is None or not is_op(maker, "Unsqueeze") or (dims(column) or [0])[-1] != 1:
        return None
    axes, rank = known(maker.inputs[1]), len(dims(column) or [])
    return maker.inputs[0] if axes is not None and axes.reshape(-1).tolist() in ([-1], [rank - 1]) else None


def _of_axis(graph: ir.Graph, inner: ir.Node, outer: ir.Node) -> ir.Value | None:
    first, second, shape = inner.inputs[1], outer.inputs[1], dims(outer.inputs[0])
    if first is None or second is None or shape is None or len(dims(first) or []) != 1:
        return None
    rank = len(shape)
    if integer(inner, "axis", 0) % rank != integer(outer, "axis", 0) % rank:
        return None
    name = f"{outer.outputs[0].name}_index"
    left, right = known(first), known(second)
    if left is not None and right is not None:
        return constant(graph, left[right], name)
    both = made("Gather", [first, second], name, (first.dtype, dims(second)), {"axis": 0})
    graph.insert_before(outer, _node(both))
    return both


def _node(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node
