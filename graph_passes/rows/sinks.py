"""Where rows are taken: Slice, Gather, GatherElements over an expanded index, GatherND with batch axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graph_passes.edit import integer
from graph_passes.rows.picks import Index, Rows, Span
from graph_passes.rows.sizes import Dim, Refused, ints, same, shape_of


@dataclass(frozen=True)
class Sink:
    """A node that takes `rows` of `value`; with `dropped` their axis goes away."""

    value: ir.Value
    rows: Rows
    dropped: bool = False


def sink(node: ir.Node) -> Sink | None:
    """What rows the node takes, None if it is no such node or its shapes or numbers are not known."""
    find = KINDS.get(node.op_type) if node.domain == "" else None
    if find is None or node.inputs[0] is None:
        return None
    try:
        shape = shape_of(node.inputs[0])
        found = find(node, node.inputs[0], shape)
    except Refused:
        return None
    return None if found is None or not _rows(found.rows, shape) else found


def _rows(rows: Rows, shape: list[Dim]) -> bool:
    """Whether these are rows: not columns, and not single numbers, as in lists of row numbers."""
    others = (size for i, size in enumerate(shape) if i != rows.axis and i not in rows.batch)
    return rows.axis < len(shape) - 1 and any(size != 1 for size in others)


def cuts(node: ir.Node) -> list[tuple[int, int]] | None:
    """Axis and first row of each axis that a Slice cuts; None if they are not constant or its step is not 1."""
    shape, given = shape_of(node.inputs[0]), [*node.inputs, None, None]
    starts, steps = ints(given[1]), ints(given[4]) if given[4] is not None else [1]
    axes = ints(given[3]) if given[3] is not None else list(range(len(starts or ())))
    if starts is None or axes is None or steps is None or set(steps) != {1}:
        return None
    found = [(axis % len(shape), _place(start, shape[axis])) for axis, start in zip(axes, starts, strict=True)]
    known = [(axis, start) for axis, start in found if start is not None]
    return known if len(known) == len(found) else None


def _place(start: int, size: Dim) -> int | None:
    """`start` counted from the front."""
    if isinstance(size, int):
        return min(max(start + size, 0) if start < 0 else start, size)
    return None if start < 0 else start


def _slice(node: ir.Node, value: ir.Value, _: list[Dim]) -> Sink | None:
    found = cuts(node)
    if found is None or len(found) != 1:
        return None
    [(axis, start)] = found
    count = shape_of(node.outputs[0])[axis]
    return Sink(value, Rows(axis, Span(start, count))) if isinstance(count, int) else None


def _gather(node: ir.Node, value: ir.Value, shape: list[Dim]) -> Sink | None:
    axis, index = integer(node, "axis", 0) % len(shape), node.inputs[1]
    taken, size, given = shape_of(index), shape[axis], ints(index)
    assert index is not None
    if given is not None and len(given) == 1 and len(taken) < 2 and isinstance(size, int):
        return Sink(value, Rows(axis, Span(given[0] % size, 1)), dropped=not taken)
    return Sink(value, Rows(axis, Index(root(index), taken[0]))) if len(taken) == 1 else None


def _gather_elements(node: ir.Node, value: ir.Value, shape: list[Dim]) -> Sink | None:
    axis, index = integer(node, "axis", 0) % len(shape), node.inputs[1]
    assert index is not None
    full, maker = shape_of(index), index.producer()
    if any(not same(size, full[i]) for i, size in enumerate(shape) if i != axis):
        return None
    if maker is not None and maker.op_type == "Expand" and maker.inputs[0] is not None:
        index = maker.inputs[0]
    missing: list[Dim] = [1] * (len(full) - len(shape_of(index)))
    given = missing + shape_of(index)
    batch = [i for i, size in enumerate(given) if i != axis and size != 1]
    if any(not same(given[i], shape[i]) or i > axis for i in batch) or not same(given[axis], full[axis]):
        return None
    return Sink(value, Rows(axis, Index(root(index), full[axis], tuple(shape[i] for i in batch)), tuple(batch)))


def _gather_nd(node: ir.Node, value: ir.Value, shape: list[Dim]) -> Sink | None:
    axis, index = integer(node, "batch_dims", 0), node.inputs[1]
    given = shape_of(index)
    assert index is not None
    if len(given) != axis + 2 or given[-1] != 1:
        return None
    batch = [i for i, size in enumerate(given[:axis]) if size != 1]
    if any(not same(given[i], shape[i]) for i in batch):
        return None
    return Sink(value, Rows(axis, Index(root(index), given[axis], tuple(shape[i] for i in batch)), tuple(batch)))


KINDS: Mapping[str, Callable[[ir.Node, ir.Value, list[Dim]], Sink | None]] = {
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
}


def root(index: ir.Value) -> ir.Value:
    """The tensor whose numbers these are, before axes of length one came or went."""
    while (node := index.producer()) is not None and node.op_type in {"Identity", "Reshape", "Squeeze", "Unsqueeze"}:
        before = node.inputs[0]
        if before is None or before.shape is None or index.shape is None:
            break
        old, new = ([size for size in shape if size != 1] for shape in (before.shape, index.shape))
        if len(old) != len(new) or not all(map(same, old, new)):
            break
        index = before
    return index
