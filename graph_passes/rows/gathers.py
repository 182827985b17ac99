"""The gathers that selections end as, and the forms of row numbers that they read."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graph_passes.rows.emit import INT64, Emitter
from graph_passes.rows.picks import Index, Rows, Span
from graph_passes.rows.sizes import Dim, Refused, same, shape_of, times


class Gathers(Emitter):
    """Adds gathers to a graph; row numbers of one form are made once."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self._forms: dict[tuple[Index, tuple[str, ...]], ir.Value] = {}

    def gather(self, value: ir.Value, rows: Rows, out: ir.Value) -> None:
        """Make `out` the wanted rows of `value`."""
        pick, axis, shape = rows.pick, rows.axis, shape_of(value)
        if isinstance(pick, Span):
            ends = (pick.start, pick.start + pick.count, axis)
            self.node("Slice", [value, *(self.constant([each]) for each in ends)], out)
        elif rows.open and axis:
            flat = self.value(value, shape[axis:])
            self.node("Squeeze", [value, self.constant(range(axis))], flat)
            self.node("Gather", [flat, self._form(pick, (*pick.lead, pick.count))], out, axis=0)
        elif rows.open or not rows.batch:
            form = self._form(pick, (*pick.lead, pick.count) if rows.open else (pick.count,))
            self.node("Gather", [value, form], out, axis=axis)
        elif _leading(rows, shape):
            form = self._form(pick, (*_batch(rows, shape), pick.count, 1))
            self.node("GatherND", [value, form], out, batch_dims=axis)
        else:
            self._gather_elements(value, rows, out)

    def _gather_elements(self, value: ir.Value, rows: Rows, out: ir.Value) -> None:
        shape, pick = shape_of(value), rows.pick
        assert isinstance(pick, Index)
        behind = len(shape) - rows.axis - 1
        column = self._form(pick, (*_batch(rows, shape), pick.count, *[1] * behind))
        sizes = [1 if i == rows.axis or i in rows.batch else size for i, size in enumerate(shape)]
        full = self.value(column, shape_of(out))
        self.node("Expand", [column, self.constant(sizes)], full)  # type: ignore[arg-type]
        self.node("GatherElements", [value, full], out, axis=rows.axis)

    def _form(self, pick: Index, shape: Sequence[Dim]) -> ir.Value:
        """The row numbers as int64 of this shape, which is theirs but for axes of length one."""
        key = (pick, tuple(map(str, shape)))
        if key not in self._forms:
            self._forms[key] = self._shaped(self._counted(pick), shape)
        return self._forms[key]

    def _counted(self, pick: Index) -> ir.Value:
        """The row numbers themselves."""
        numbers = pick.root
        if numbers.dtype != INT64:
            wide = self.value(numbers, shape_of(numbers))
            wide.type = ir.TensorType(INT64)
            numbers = self.node("Cast", [numbers], wide, to=INT64.value)
        return self._stepped(numbers, pick) if pick.steps else numbers

    def _stepped(self, numbers: ir.Value, pick: Index) -> ir.Value:
        """The numbers after every step; what steps share is computed once."""
        *before, (kind, size) = pick.steps
        count = pick.count // size if kind == "spread" and isinstance(pick.count, int) else pick.count
        earlier = Index(pick.root, count, pick.lead, tuple(before))
        if before:
            numbers = self._stepped(numbers, earlier)
        key = (pick, ())
        if key not in self._forms:
            made = self._spread if kind == "spread" else self._plus
            self._forms[key] = made(numbers, size, (*pick.lead, count))
        return self._forms[key]

    def _plus(self, numbers: ir.Value, size: int, _: Sequence[Dim]) -> ir.Value:
        return self.node("Add", [numbers, self.constant([size])], self.value(numbers, shape_of(numbers) or [1]))

    def _spread(self, numbers: ir.Value, size: int, shape: Sequence[Dim]) -> ir.Value:
        column = self._shaped(numbers, (*shape, 1))
        firsts = self.node("Mul", [column, self.constant([size])], self.value(numbers, (*shape, 1)))
        every = self.node("Add", [firsts, self.constant(range(size))], self.value(numbers, (*shape, size)))
        return self._reshaped(every, (*shape[:-1], times(shape[-1], size)))

    def _shaped(self, numbers: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        before = shape_of(numbers)
        new = _inserted(before, shape)
        if not new:
            return numbers if new == [] else self._reshaped(numbers, shape)
        return self.node("Unsqueeze", [numbers, self.constant(new)], self.value(numbers, shape))

    def _reshaped(self, numbers: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) < 2:
            return self.node("Reshape", [numbers, self.constant(sizes)], self.value(numbers, shape))
        before = shape_of(numbers)
        gone = [i for i, size in enumerate(before) if size == 1]
        less = self.value(numbers, [size for size in before if size != 1])
        return self._shaped(self.node("Squeeze", [numbers, self.constant(gone)], less), shape)


def check(value: ir.Value | None, rows: Rows) -> None:
    """Whether `Emitter.gather` can take the rows of this value.

    Raises:
        Refused: it cannot.
    """
    shape = shape_of(value)
    if rows.open or not rows.batch or _leading(rows, shape):
        return
    if any(not isinstance(size, int) for i, size in enumerate(shape) if i != rows.axis and i not in rows.batch):
        raise Refused("lengths between the batch and the rows are not constant")


def taken(value: ir.Value, rows: Rows) -> list[Dim]:
    """The shape of the wanted rows."""
    shape = shape_of(value)
    if rows.open:
        return [*rows.pick.lead, rows.pick.count, *shape[rows.axis + 1 :]]
    return [rows.pick.count if i == rows.axis else size for i, size in enumerate(shape)]


def whole(value: ir.Value, rows: Rows) -> bool:
    """Whether all rows are wanted."""
    return isinstance(rows.pick, Span) and shape_of(value)[rows.axis] == rows.pick.count


def _leading(rows: Rows, shape: Sequence[Dim]) -> bool:
    return all(i in rows.batch or shape[i] == 1 for i in range(rows.axis))


def _batch(rows: Rows, shape: Sequence[Dim]) -> list[Dim]:
    return [shape[i] if i in rows.batch else 1 for i in range(rows.axis)]


def _inserted(before: Sequence[Dim], after: Sequence[Dim]) -> list[int] | None:
    """The axes of length one that `after` has more; None if `before` has some that `after` has not."""
    new, left = [], list(before)
    for i, size in enumerate(after):
        if left and same(left[0], size):
            left.pop(0)
        else:
            new.append(i)
    return None if left else new
