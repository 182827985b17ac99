"""How rows pass operators that only lay out: nothing is computed, axes are numbered anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from graph_passes.edit import integer
from graph_passes.rows.picks import Plan, Rows, Span
from graph_passes.rows.rowwise import aligned
from graph_passes.rows.sinks import cuts
from graph_passes.rows.sizes import Dim, Refused, ints, same, shape_of, times


def transpose(node: ir.Node, rows: Rows) -> Plan:
    """Axes change places."""
    rank = len(shape_of(node.outputs[0]))
    perm = node.attributes.get_ints("perm") or list(reversed(range(rank)))
    return Plan({0: rows.at(perm[rows.axis], [perm[b] for b in rows.batch])})


def unsqueeze(node: ir.Node, rows: Rows) -> Plan:
    """Axes of length one go away."""
    new = _axes(node, len(shape_of(node.outputs[0])))
    return Plan({0: rows.at(*_renumbered(rows, lambda axis: axis - sum(each < axis for each in new)))})


def squeeze(node: ir.Node, rows: Rows) -> Plan:
    """Axes of length one come back."""
    rank = len(shape_of(node.inputs[0]))
    gone = _axes(node, rank)
    left = [axis for axis in range(rank) if axis not in gone]
    return Plan({0: rows.at(*_renumbered(rows, left.__getitem__))})


def reshape(node: ir.Node, rows: Rows) -> Plan:
    """The wanted axis must be there before as well, behind as many numbers: as long, or in groups of equal size."""
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    axis, size = _found(after, before, rows.axis)
    batch = [_found(after, before, b) for b in rows.batch]
    if any(group != 1 for _, group in batch):
        raise Refused("the batch is laid out otherwise before")
    pick = rows.pick if size == 1 else rows.pick.spread(size)
    after[rows.axis], before[axis] = rows.pick.count, pick.count
    sizes = _sizes(before, after)
    needs = {0: Rows(axis, pick).at(axis, [b for b, _ in batch])}
    return Plan(needs, {1: sizes}, ("allowzero",) if 0 in sizes else ())


def expand(node: ir.Node, rows: Rows) -> Plan:
    """Rows of what is expanded; what is the same in all rows is expanded to fewer."""
    operand, out = node.inputs[0], node.outputs[0]
    assert operand is not None
    needs = aligned(rows, out, operand)
    if needs is not None and needs.open:
        raise Refused("it broadcasts over the batch")
    before, after = shape_of(operand), shape_of(out)
    missing: list[Dim] = [1] * (len(after) - len(before))
    sizes = [1 if same(old, new) else new for old, new in zip(missing + before, after, strict=True)]
    if needs is None:
        sizes[rows.axis] = rows.pick.count
    if not all(isinstance(size, int) for size in sizes):
        raise Refused("it expands to a length that is not constant")
    return Plan({} if needs is None else {0: needs}, {1: sizes})  # type: ignore[dict-item]


def cut(node: ir.Node, rows: Rows) -> Plan:
    """Slice: rows of a span are rows further on; other axes do not matter."""
    found = cuts(node)
    axes = None if found is None else dict(found)
    if axes is None:
        raise Refused("its axes are not constant")
    if any(b in axes for b in rows.batch):
        raise Refused("it cuts the batch")
    if rows.axis not in axes:
        return Plan({0: rows})
    if len(axes) > 1:
        raise Refused("it cuts other axes too")
    return Plan(same=(0, Rows(rows.axis, rows.pick.behind(axes[rows.axis]), rows.batch)))


def gather(node: ir.Node, rows: Rows) -> Plan:
    """Gather along another axis, or rows of the numbers it gathers by."""
    across, taken = integer(node, "axis", 0) % len(shape_of(node.inputs[0])), len(shape_of(node.inputs[1]))
    behind = across + taken
    if across <= rows.axis < behind:
        if any(b < across for b in rows.batch):
            raise Refused("it gathers behind the batch")
        return Plan({1: rows.at(rows.axis - across, [b - across for b in rows.batch])})
    if any(across <= b < behind for b in rows.batch):
        raise Refused("it gathers the batch")
    return Plan({0: rows.at(*_renumbered(rows, lambda axis: axis if axis < across else axis - taken + 1))})


def concat(node: ir.Node, rows: Rows) -> Plan:
    """Rows of every piece; along its own axis the pieces that a span touches."""
    across = integer(node, "axis", 0) % len(shape_of(node.outputs[0]))
    if across in rows.batch:
        raise Refused("it puts the batch together")
    if rows.axis != across:
        return Plan({i: rows for i, each in enumerate(node.inputs) if each is not None})
    return _pieces([shape_of(each)[across] for each in node.inputs], rows)


def _pieces(sizes: Sequence[Dim], rows: Rows) -> Plan:
    """A span of what was put together: rows of one piece, or of some."""
    if not isinstance(rows.pick, Span):
        raise Refused("the rows come from several pieces")
    needs, ahead, last = {}, 0, rows.pick.start + rows.pick.count
    for i, size in enumerate(sizes):
        if not isinstance(size, int):
            raise Refused("the lengths of the pieces are not constant")
        first, end = max(rows.pick.start - ahead, 0), min(last - ahead, size)
        if first < end:
            needs[i] = Rows(rows.axis, Span(first, end - first))
        ahead += size
    if len(needs) == 1:
        return Plan(same=next(iter(needs.items())))
    return Plan(needs, left_out=frozenset(range(len(sizes))) - set(needs))


def _axes(node: ir.Node, rank: int) -> set[int]:
    axes = ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        raise Refused("its axes are not constant")
    return {axis % rank for axis in axes}


def _renumbered(rows: Rows, place: Callable[[int], int]) -> tuple[int, list[int]]:
    return place(rows.axis), [place(b) for b in rows.batch]


def _found(after: Sequence[Dim], before: Sequence[Dim], axis: int) -> tuple[int, int]:
    """The axis of `before` that is axis `axis` of `after`, and how many of its rows make one there."""
    wanted, ahead, passed = after[axis], _product(after[:axis]), 1
    for i, size in enumerate(before):
        if same(passed, ahead) and size != 1:
            if same(size, wanted):
                return i, 1
            if isinstance(size, int) and isinstance(wanted, int) and size % wanted == 0:
                return i, size // wanted
        passed = times(passed, size)  # type: ignore[assignment]
    raise Refused("the rows are laid out otherwise before")


def _product(sizes: Sequence[Dim]) -> Dim:
    product: Dim = 1
    for size in sizes:
        product = times(product, size)
    return product


def _sizes(before: Sequence[Dim], after: Sequence[Dim]) -> list[int]:
    """A constant shape for Reshape: -1 for the only axis without a number, 0 where an axis stays in its place."""
    unknown = [i for i, size in enumerate(after) if not isinstance(size, int)]
    if len(unknown) > 1:
        rest = [i for i in unknown if i >= len(before) or not same(before[i], after[i])]
        if len(rest) > 1:
            raise Refused("its shape is not constant")
        return [(-1 if i in rest else 0) if i in unknown else size for i, size in enumerate(after)]  # type: ignore[misc]
    return [-1 if i in unknown else size for i, size in enumerate(after)]  # type: ignore[misc]
