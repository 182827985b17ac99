"""What a static graph must not hold: nodes that measure fixed axes, and shapes that depend on data."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graph_passes.edit import dims, integer, is_op, known

DATA = ("NonZero", "Unique", "Compress")


def residue(model: ir.Model) -> list[str]:
    """One line for each such node, in the graph and in the bodies of its loops; what no one reads is passed over."""
    return list(_lines(model))


def _lines(model: ir.Model) -> Iterator[str]:
    for node in model.graph.all_nodes():
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        name = f"{node.op_type} {node.outputs[0].name}"
        if is_op(node, *DATA):
            yield f"{name}: the shape of its output depends on data"
        elif is_op(node, "If"):
            yield f"{name}: which branch runs depends on data"
        elif is_op(node, "Loop") and (not node.inputs or known(node.inputs[0]) is None):
            yield f"{name}: its trip count is computed"
        elif is_op(node, "Shape", "Size") and _fixed(_measured(node)):
            yield f"{name}: measures an axis of {node.inputs[0] and node.inputs[0].name} that is fixed"
        elif _computes(node) and _fixed(dims(node.outputs[0])):
            yield f"{name}: computes a size that is fixed"


def _computes(node: ir.Node) -> bool:
    return is_op(node, "Range", "ConstantOfShape") and any(known(value) is None for value in node.inputs)


def _measured(node: ir.Node) -> list[int | str | None] | None:
    of = dims(node.inputs[0])
    if of is None or is_op(node, "Size"):
        return of
    return of[integer(node, "start", 0) : integer(node, "end", len(of))]


def _fixed(sizes: list[int | str | None] | None) -> bool:
    return bool(sizes) and all(isinstance(size, int) for size in sizes or [])
