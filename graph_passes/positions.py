"""Integers that count along one axis, or are one number everywhere: what positions and masks are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graph_passes.edit import dims, integer, known


@dataclass(frozen=True)
class Flat:
    """One number everywhere; truths are 0 and 1."""

    number: int


@dataclass(frozen=True)
class Count:
    """`start`, `start + 1` and so on along one axis, counted from the last one (-1)."""

    axis: int
    start: int


@dataclass(frozen=True)
class Places:
    """Pairs `(any row, count)` that pick single numbers of a matrix."""

    count: Count


Kind = Flat | Count | Places | str
Given = Sequence[Kind | None]
Rule = Callable[[ir.Node, Given], Kind | None]


def written(value: ir.Value) -> Flat | Count | None:
    """What a small constant is."""
    data = known(value)
    if data is None or not data.size or data.dtype.kind not in "ib":
        return Flat(0) if data is not None and data.dtype.kind == "f" and data.size and not data.any() else None
    line = data.reshape(-1)
    if (line == line[0]).all():
        return Flat(int(line[0]))
    axis = along(data.shape)
    steady = axis is not None and data.dtype.kind == "i" and (np.diff(line) == 1).all()
    return Count(axis, int(line[0])) if steady and axis is not None else None


def along(shape: Sequence[int | str | None] | None) -> int | None:
    """The one axis that is longer than one, from the last."""
    long = [axis - len(shape) for axis, size in enumerate(shape) if size != 1] if shape is not None else []
    return long[0] if len(long) == 1 else None


def turned(node: ir.Node, given: Given) -> Kind | None:
    """Another shape for the same numbers: they count along the axis that is left of theirs."""
    kind = given[0]
    if not isinstance(kind, Count):
        return kind if isinstance(kind, Flat) else None
    axis = along(dims(node.outputs[0]))
    return replace(kind, axis=axis) if along(dims(node.inputs[0])) == kind.axis and axis is not None else None


def _range(node: ir.Node, _: Given) -> Kind | None:
    start, step = known(node.inputs[0]), known(node.inputs[2])
    if start is None or step is None or start.dtype.kind != "i" or step.item() != 1:
        return None
    return Count(-1, start.item())


def _filled(node: ir.Node, _: Given) -> Kind | None:
    value = node.attributes.get("value")
    number = 0.0 if value is None else value.as_tensor().numpy().item()
    return Flat(int(number)) if number in (0, 1) else None


def _add(_: ir.Node, given: Given) -> Kind | None:
    first, second = sorted(given, key=lambda kind: isinstance(kind, Flat))
    if not isinstance(second, Flat):
        return None
    if isinstance(first, Flat):
        return Flat(first.number + second.number)
    return replace(first, start=first.start + second.number) if isinstance(first, Count) else None


def _sub(node: ir.Node, given: Given) -> Kind | None:
    first, second = given
    if isinstance(second, Flat):
        return _add(node, [first, Flat(-second.number)])
    if not isinstance(first, Count) or not isinstance(second, Count) or first.axis != second.axis:
        return None
    lengths = {(dims(value) or [None])[first.axis :][:1][0] for value in node.inputs}
    return Flat(first.start - second.start) if len(lengths) == 1 and None not in lengths else None


def _slice(node: ir.Node, given: Given) -> Kind | None:
    kind, shape, after = given[0], dims(node.inputs[0]), dims(node.outputs[0])
    if not isinstance(kind, Count):
        return kind if isinstance(kind, Flat) else None
    bounds = [known(value) for value in (*node.inputs[1:2], *node.inputs[3:])]
    if shape is None or after is None or any(bound is None or bound.size != 1 for bound in bounds) or len(bounds) < 2:
        return None
    start, axis, *step = [int(bound.item()) for bound in bounds if bound is not None]
    if step not in ([], [1]) or start < 0:
        return None
    if axis % len(shape) - len(shape) != kind.axis:
        return kind
    return Flat(kind.start + start) if after[kind.axis] == 1 else replace(kind, start=kind.start + start)


def _concat(node: ir.Node, given: Given) -> Kind | None:
    """A number in front of a count that goes on from it, or pairs of a number and a count."""
    shapes = [dims(value) for value in node.inputs]
    if len(given) != 2 or None in shapes or not isinstance(given[0], Flat) or not isinstance(given[1], Count):
        return None
    first, second = (shape or [] for shape in shapes)
    axis = integer(node, "axis", 0) % len(first) - len(first)
    if axis == -1 and first[-1] == second[-1] == 1 and given[1].axis != -1:
        return Places(given[1])
    follows = axis == given[1].axis and first[axis] == 1 and given[0].number + 1 == given[1].start
    return Count(axis, given[0].number) if follows else None


def _same_sum(_: ir.Node, given: Given) -> Kind | None:
    return given[0] if given[0] == Flat(0) else None


def _equal(_: ir.Node, given: Given) -> Kind | None:
    first, second = given
    return Flat(int(first == second)) if isinstance(first, Flat) and isinstance(second, Flat) else None


def _picked(node: ir.Node, given: Given) -> Kind | None:
    """Counted numbers `[1,n]` picked by their places."""
    kind, places = given
    if not isinstance(kind, Count):
        return kind if isinstance(kind, Flat) else None
    simple = len(dims(node.inputs[0]) or []) == 2 and kind.axis == -1 and not integer(node, "batch_dims", 0)
    if not simple or not isinstance(places, Places):
        return None
    return Count(places.count.axis + 1, kind.start + places.count.start)


RULES: Mapping[str, Rule] = {
    "Range": _range,
    "ConstantOfShape": _filled,
    "Add": _add,
    "Sub": _sub,
    "Slice": _slice,
    "Concat": _concat,
    "CumSum": _same_sum,
    "Equal": _equal,
    "GatherND": _picked,
}
