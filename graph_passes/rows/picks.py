"""Which rows of a tensor are wanted: a span, or numbers that another tensor holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from graph_passes.rows.sizes import Dim, Refused, ints, times

SAME_NUMBERS = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose", "Slice", "Cast", "Gather"}
SAME_NUMBERS |= {"GatherElements", "GatherND", "TopK"}
COUNTS = {("", "TopK"), ("", "ArgMax"), ("", "ArgMin"), ("", "NonZero"), ("", "Shape")}
COUNTS |= {("tp.export", name) for name in ("Select", "DiverseSelect", "Peel")}


@dataclass(frozen=True)
class Span:
    """Rows `start` to `start + count - 1`, both constant."""

    start: int
    count: int

    lead: tuple[Dim, ...] = ()

    def behind(self, first: int) -> Span:
        """The same rows counted from `first` rows earlier."""
        return replace(self, start=self.start + first)

    def spread(self, size: int) -> Span:
        """All rows of the wanted groups, `size` rows in each."""
        return Span(self.start * size, self.count * size)


@dataclass(frozen=True)
class Index:
    """Rows whose numbers come from `root`: int `[*lead, count]` once axes of length one are left out.

    Every axis in `lead` has rows of its own: usually the batch. `steps` are done to the numbers in turn: `("plus", n)`
    adds n, `("spread", n)` makes n rows of each group, so that `count` is n times that of `root`.
    """

    root: ir.Value
    count: Dim
    lead: tuple[Dim, ...] = ()
    steps: tuple[tuple[str, int], ...] = ()

    def behind(self, first: int) -> Index:
        """The same rows counted from `first` rows earlier.

        Raises:
            Refused: a number may be negative, which counts from the end.
        """
        if first and not _non_negative(self.root):
            raise Refused("row numbers may count from the end")
        if not first:
            return self
        last = self.steps[-1] if self.steps else ("", 0)
        if last[0] == "plus":
            return replace(self, steps=(*self.steps[:-1], ("plus", last[1] + first)))
        return replace(self, steps=(*self.steps, ("plus", first)))

    def spread(self, size: int) -> Index:
        """All rows of the wanted groups, `size` rows in each.

        Raises:
            Refused: too much of their shape is not constant.
        """
        if not isinstance(self.count, int) or sum(not isinstance(each, int) for each in self.lead) > 1:
            raise Refused("the number of groups is not constant")
        return replace(self, count=times(self.count, size), steps=(*self.steps, ("spread", size)))


@dataclass(frozen=True)
class Rows:
    """Rows of a value along `axis`; `batch` are its axes, ascending and before `axis`, that `pick.lead` runs along."""

    axis: int
    pick: Span | Index
    batch: tuple[int, ...] = ()

    @property
    def open(self) -> bool:
        """Whether the value lacks the axes of `lead`, which its rows bring: `[N, C]` becomes `[*lead, count, C]`."""
        return len(self.batch) != len(self.pick.lead)

    def at(self, axis: int, batch: Sequence[int]) -> Rows:
        """The same rows where the axes have other numbers.

        Raises:
            Refused: the batch would no longer come before the rows, in its order.
        """
        if list(batch) != sorted({*batch}) or any(each >= axis for each in batch):
            raise Refused("the batch comes behind the rows")
        return Rows(axis, self.pick, tuple(batch))


@dataclass(frozen=True)
class Plan:
    """How rows pass a node: the rows of its inputs, constants that take an input's place, what is left out.

    With `same` there is nothing to compute: the wanted rows are those rows of that input.
    """

    needs: dict[int, Rows] = field(default_factory=dict)
    constants: dict[int, list[int]] = field(default_factory=dict)
    without: tuple[str, ...] = ()  # attributes
    left_out: frozenset[int] = frozenset()  # inputs
    same: tuple[int, Rows] | None = None

    @property
    def read(self) -> list[tuple[int, Rows]]:
        """Inputs of which only rows are read."""
        return [*self.needs.items(), *([self.same] if self.same else [])]

    @property
    def cuts(self) -> bool:
        """Whether whole inputs are no longer read."""
        return bool(self.left_out) or self.same is not None

    def spares(self, at: int) -> bool:
        """Whether an input is not read at all."""
        return at in self.constants or at in self.left_out or (self.same is not None and at != self.same[0])


def _non_negative(value: ir.Value | None, depth: int = 16) -> bool:
    constant = ints(value)
    if constant is not None:
        return min(constant, default=0) >= 0
    node = None if value is None else value.producer()
    if node is None or not depth:
        return False
    if (node.domain, node.op_type) in COUNTS and value is node.outputs[-1]:
        return True
    if node.op_type in SAME_NUMBERS:
        return _non_negative(node.inputs[0], depth - 1)
    return node.op_type in {"Add", "Concat", "Max"} and all(_non_negative(each, depth // 2) for each in node.inputs)
