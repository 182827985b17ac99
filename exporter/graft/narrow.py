"""Fewer rows behind a cut: what names the old number of tokens is rewritten, or the node is named that cannot be."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from engines.errors import UserError
from exporter.graft.axes import RULES, unknown
from exporter.graft.carried import Axes, Carried, StuckError


def narrow(graph: ir.Graph, cut: ir.Value, old: int, new: int, rows: ir.Value | None) -> Mapping[ir.Value, Axes]:
    """Follow `cut` `[B,front+new,C]`, which had `old` patches, through the graph; shapes and constants in place.

    Args:
        graph: of settled shapes.
        cut: what now has fewer rows; everybody behind reads it already.
        old: patches before the cut.
        new: patches behind it.
        rows: `[B,front+new]` int64, where each row stood; None where rows were merged, so that tables cannot follow.

    Returns:
        The axes of tokens of every value behind the cut, with the rows in front of the patches.

    Raises:
        UserError: a node needs all tokens, or nobody knows whether it does.
    """
    assert cut.shape is not None
    front = int(cut.shape[1]) - new  # type: ignore[arg-type]
    carried = Carried(graph, old, new, rows, {cut: {1: front}}, front)
    start = cut.producer()
    assert start is not None
    reached = False
    for node in list(graph):
        if reached and any(value in carried.axes for value in node.inputs):
            _follow(node, carried)
        reached = reached or node is start
    return carried.axes


def _follow(node: ir.Node, carried: Carried) -> None:
    shapes = [value.shape for value in node.outputs]
    rule = unknown if node.domain else RULES.get(node.op_type, unknown)
    try:
        found = rule(node, carried)
    except (StuckError, ValueError) as reason:
        raise UserError(
            f"node {node.name or node.outputs[0].name} ({node.op_type}) behind the cut may need all tokens: {reason}; "
            "cut later with --layer, or export the model without it"
        ) from reason
    for value, shape, axes in zip(node.outputs, shapes, found, strict=True):
        if axes:
            carried.axes[value] = axes
            assert shape is not None
            value.shape = carried.shrunk(shape, axes)
