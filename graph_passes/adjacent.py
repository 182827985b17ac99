"""The one gather that takes its rows from a selection: what a fused operator may do with the ranking."""

from __future__ import annotations

import onnx_ir as ir

from graph_passes.edit import dims, integer, is_op, known

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def adjacent(marker: ir.Node) -> ir.Node | str:
    """The `GatherND` of tokens `[B..,N,C..]` by the indices of `Select(scores [B..,N])`, or why there is none to fuse.

    It must be the only reader of the indices as a column, and no token may depend on the indices. The indices
    themselves may be read elsewhere.
    """
    indices = marker.outputs[0]
    rank = len(dims(marker.inputs[0]) or [])
    columns = [node.outputs[0] for node in indices.consumers() if is_op(node, "Unsqueeze") and _is_column(node, rank)]
    readers = [use for column in columns for use in column.uses()]
    if not readers or not all(is_op(use.node, "GatherND") and use.idx == 1 for use in readers):
        return "no gather of rows reads it" if not readers else "its indices are computed with"
    if len(readers) > 1:
        return f"{len(readers)} gathers read it"
    gather = readers[0].node
    if gather.graph is not marker.graph or integer(gather, "batch_dims", 0) != rank - 1:
        return "rows are gathered in another way"
    tokens = gather.inputs[0]
    rows = dims(tokens) or []
    if tokens is None or tokens.dtype not in FLOATS or None in rows:
        return "what is gathered is not known, or no float"
    if len(rows) <= rank or rows[:rank] != dims(marker.inputs[0]):
        return "scores and rows have other axes"
    return "the rows may depend on the indices" if _depends(tokens, marker) else gather


def _is_column(unsqueeze: ir.Node, rank: int) -> bool:
    axes = known(unsqueeze.inputs[1])
    return axes is not None and axes.reshape(-1).tolist() in ([-1], [rank])


def _depends(value: ir.Value, marker: ir.Node) -> bool:
    """Whether a value may be computed from the outputs of a node: looks only at nodes behind it."""
    ranks = {node: rank for rank, node in enumerate(marker.graph or ())}
    open_, seen = [value], set[ir.Node]()
    while open_:
        node = open_.pop().producer()
        if node is marker or (node is not None and node not in ranks):
            return True
        if node is None or node in seen or ranks[node] < ranks[marker]:
            continue
        if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
            return True  # bodies read what they like
        seen.add(node)
        open_ += [each for each in node.inputs if each is not None]
    return False
