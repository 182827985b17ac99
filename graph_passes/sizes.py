"""What is known of small integer values that are computed from shapes: numbers, and names of dynamic axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graph_passes.edit import FEW, dims, integer, is_op, known

Entry = int | str | None


@dataclass(frozen=True)
class Sizes:
    """The elements of an int64 value of rank 0 or 1: a number, the name of an axis, or unknown."""

    entries: tuple[Entry, ...]
    scalar: bool = False

    @property
    def numbers(self) -> list[int] | None:
        """All elements, if all are numbers."""
        numbers = [entry for entry in self.entries if isinstance(entry, int)]
        return numbers if len(numbers) == len(self.entries) else None


def sizes_of(node: ir.Node, found: Mapping[ir.Value, Sizes]) -> Sizes | None:
    """What the one output of `node` holds, by what is known of its inputs."""
    rule = RULES.get(node.op_type)
    if rule is None or not is_op(node, node.op_type) or node.outputs[0].dtype != ir.DataType.INT64:
        return None
    sizes = rule(node, [given(value, found) for value in node.inputs])
    return sizes if sizes is not None and len(sizes.entries) <= FEW else None


def given(value: ir.Value | None, found: Mapping[ir.Value, Sizes]) -> Sizes | None:
    """What is known of an input: a constant, or what was found before."""
    if value is None:
        return None
    data = known(value)
    if data is None:
        return found.get(value)
    if data.ndim > 1 or data.size > FEW or data.dtype.kind != "i":
        return None
    return Sizes(tuple(data.reshape(-1).tolist()), scalar=data.ndim == 0)


Parts = list[Sizes | None]


def _shape(node: ir.Node, _: Parts) -> Sizes | None:
    of = dims(node.inputs[0])
    if of is None:
        return None
    return Sizes(tuple(of[integer(node, "start", 0) : integer(node, "end", len(of))]))


def _size(node: ir.Node, _: Parts) -> Sizes | None:
    product = 1
    of = dims(node.inputs[0])
    for size in [None] if of is None else of:
        if not isinstance(size, int):
            return None
        product *= size
    return Sizes((product,), scalar=True)


def _gather(_: ir.Node, parts: Parts) -> Sizes | None:
    data, index = parts
    picks = None if index is None else index.numbers
    if data is None or index is None or picks is None or data.scalar:
        return None
    return Sizes(tuple(data.entries[pick] for pick in picks), scalar=index.scalar)


def _slice(_: ir.Node, parts: Parts) -> Sizes | None:
    data, *bounds = parts
    numbers = [None if bound is None else bound.numbers for bound in bounds]
    if data is None or data.scalar or any(bound is None for bound in numbers):
        return None
    start, end, *rest = [bound[0] for bound in numbers if bound]
    step = rest[1] if len(rest) == 2 else 1
    return Sizes(data.entries[start:end]) if step == 1 else None


def _concat(_: ir.Node, parts: Parts) -> Sizes | None:
    if any(part is None for part in parts):
        return None
    return Sizes(tuple(entry for part in parts if part is not None for entry in part.entries))


def _same(_: ir.Node, parts: Parts) -> Sizes | None:
    return parts[0]


def _unsqueeze(_: ir.Node, parts: Parts) -> Sizes | None:
    return Sizes(parts[0].entries) if parts[0] is not None and parts[0].scalar else None


def _squeeze(_: ir.Node, parts: Parts) -> Sizes | None:
    data = parts[0]
    return Sizes(data.entries, scalar=True) if data is not None and len(data.entries) == 1 else None


def _reshape(_: ir.Node, parts: Parts) -> Sizes | None:
    data, target = parts
    if data is None or target is None or target.numbers is None or len(target.entries) > 1:
        return None
    return Sizes(data.entries, scalar=not target.entries)


def _arithmetic(compute: Callable[[int, int], int]) -> Callable[[ir.Node, Parts], Sizes | None]:
    def rule(_: ir.Node, parts: Parts) -> Sizes | None:
        left, right = (None if sizes is None else sizes.numbers for sizes in parts)
        if not left or not right or 1 not in (len(left), len(right)):
            return None
        count = max(len(left), len(right))
        pairs = zip(left * (count // len(left)), right * (count // len(right)), strict=True)
        return Sizes(tuple(compute(a, b) for a, b in pairs), scalar=all(sizes.scalar for sizes in parts if sizes))

    return rule


RULES: Mapping[str, Callable[[ir.Node, Parts], Sizes | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Identity": _same,
    "Cast": _same,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
}
