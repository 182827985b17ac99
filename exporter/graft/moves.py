"""How operators that only move numbers hand the axes of tokens on."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import onnx_ir as ir

from exporter.graft.carried import Axes, Carried, StuckError
from exporter.graft.sizes import constant, size, target

LAST = 2**62


def turn(node: ir.Node, carried: Carried) -> list[Axes]:
    """Transpose."""
    order = list(node.attributes["perm"].as_ints())
    return [{order.index(axis): front for axis, front in carried.of(node.inputs[0]).items()}]


def reshape(node: ir.Node, carried: Carried) -> list[Axes]:
    """Other axes may be split and joined; an axis of tokens stays one, with as much before it."""
    given, wanted = carried.before(node.inputs[0]), node.outputs[0].shape
    if wanted is None:
        raise StuckError("its result's size is not known")
    found: Axes = {}
    for axis, front in carried.of(node.inputs[0]).items():
        before = _product(given[:axis])
        same = [j for j, dim in enumerate(wanted) if dim == given[axis] and _product(wanted[:j]) == before]
        if len(same) != 1:
            raise StuckError(f"it folds the {given[axis]} tokens into {[str(dim) for dim in wanted]}")
        found[same[0]] = front
    if found and not target(carried.graph, node, carried.shrunk(wanted, found)):
        raise StuckError("two of its sizes are open")
    return [found]


def _product(sizes: Iterable[object]) -> tuple[int, int]:
    pairs = [size(dim) for dim in sizes]
    return prod(factor for factor, _ in pairs), sum(power for _, power in pairs)


def unsqueeze(node: ir.Node, carried: Carried) -> list[Axes]:
    """New axes of size 1."""
    rank = len(carried.before(node.inputs[0])) + len(numbers(node, 1))
    new = {axis % rank for axis in numbers(node, 1)}
    kept = [axis for axis in range(rank) if axis not in new]
    return [{kept[axis]: front for axis, front in carried.of(node.inputs[0]).items()}]


def squeeze(node: ir.Node, carried: Carried) -> list[Axes]:
    """Axes of size 1 go."""
    rank = len(carried.before(node.inputs[0]))
    gone = {axis % rank for axis in numbers(node, 1)}
    return [without(carried.of(node.inputs[0]), gone)]


def concat(node: ir.Node, carried: Carried) -> list[Axes]:
    """Side by side; along tokens, only in front of them."""
    rank = len(carried.before(node.outputs[0]))
    axis = node.attributes["axis"].as_int() % rank
    if not any(axis in carried.of(value) for value in node.inputs):
        return _beside(node, carried, rank)
    *others, last = node.inputs
    found = dict(carried.of(last))
    if axis not in found or any(axis in carried.of(value) for value in others):
        raise StuckError("tokens are not the last of what it joins")
    sizes = [carried.before(value)[axis] for value in others]
    if not all(isinstance(number, int) for number in sizes):
        raise StuckError("what it joins has open sizes")
    found[axis] += sum(int(number) for number in sizes)  # type: ignore[call-overload]
    return [found]


def _beside(node: ir.Node, carried: Carried, rank: int) -> list[Axes]:
    """Joined along another axis than that of tokens: everybody has them."""
    found: Axes = {}
    for value in node.inputs:
        for own, front in carried.of(value).items():
            if found.setdefault(own, front) != front:
                raise StuckError("rows of two kinds meet")
    for place, value in enumerate(node.inputs):
        for own, front in found.items():
            if own not in carried.of(value):
                carried.table(node, place, own, front, rank)
    return [found]


def split(node: ir.Node, carried: Carried) -> list[Axes]:
    """Parts along another axis, or rows in front of the patches and the rest."""
    axes = carried.of(node.inputs[0])
    attribute = node.attributes.get("axis")
    axis = (0 if attribute is None else attribute.as_int()) % len(carried.before(node.inputs[0]))
    if axis not in axes:
        return [axes for _ in node.outputs]
    sizes = numbers(node, 1)
    front = axes[axis] - sum(sizes[:-1])
    if front < 0:
        raise StuckError("it splits the patches")
    sizes[-1] = carried.new + front
    node.replace_input_with(1, constant(carried.graph, sizes, f"{node.outputs[0].name}_sizes"))
    return [*[_only_not(axes, axis) for _ in sizes[:-1]], {**axes, axis: front}]


def part(node: ir.Node, carried: Carried) -> list[Axes]:
    """Slice: rows in front of the patches, or all rows from one of these on."""
    sizes = carried.before(node.inputs[0])
    found = dict(carried.of(node.inputs[0]))
    starts, ends = numbers(node, 1), numbers(node, 2)
    axes = numbers(node, 3) if len(node.inputs) > 3 else list(range(len(starts)))
    steps = numbers(node, 4) if len(node.inputs) > 4 else [1] * len(starts)
    for number, axis in enumerate(one % len(sizes) for one in axes):
        if axis not in found:
            continue
        length = int(sizes[axis])  # type: ignore[call-overload]
        start, end, _ = slice(starts[number], ends[number]).indices(length)
        if steps[number] != 1 or start > found[axis] or found[axis] < end < length:
            raise StuckError(f"it takes rows {start} to {end} of {length}")
        if end == length:
            found[axis] -= start
            starts[number], ends[number] = start, LAST
        else:
            del found[axis]
            starts[number], ends[number] = start, end
    if starts != numbers(node, 1):
        node.replace_input_with(1, constant(carried.graph, starts, f"{node.outputs[0].name}_starts"))
    if ends != numbers(node, 2):
        node.replace_input_with(2, constant(carried.graph, ends, f"{node.outputs[0].name}_ends"))
    return [found]


def pick(node: ir.Node, carried: Carried) -> list[Axes]:
    """Gather by constants: of tokens, only rows in front of the patches."""
    sizes, axes = carried.before(node.inputs[0]), carried.of(node.inputs[0])
    attribute = node.attributes.get("axis")
    axis = (0 if attribute is None else attribute.as_int()) % len(sizes)
    wanted = node.inputs[1]
    if carried.of(wanted):
        raise StuckError("it reads a table by tokens")
    if axis in axes:
        listed = numbers(node, 1)
        if any(not 0 <= row < axes[axis] for row in listed):
            raise StuckError(f"it takes rows {listed[:4]} of {sizes[axis]}")
    more = (0 if wanted is None or wanted.shape is None else len(wanted.shape)) - 1
    return [{own + more * (own > axis): front for own, front in axes.items() if own != axis}]


def expand(node: ir.Node, carried: Carried) -> list[Axes]:
    """Repeat along other axes."""
    sizes, wanted = carried.before(node.inputs[0]), node.outputs[0].shape
    if wanted is None:
        raise StuckError("its result's size is not known")
    more = len(wanted) - len(sizes)
    found = {axis + more: front for axis, front in carried.of(node.inputs[0]).items()}
    tensor = numbers(node, 1)
    for axis in found:
        tensor[axis - len(wanted)] = 1
    node.replace_input_with(1, constant(carried.graph, tensor, f"{node.outputs[0].name}_to"))
    return [found]


def measured(node: ir.Node, carried: Carried) -> list[Axes]:
    """Shape: of other axes, or of tokens where only other axes are read of it."""
    rank = len(carried.before(node.inputs[0]))
    start, end = (node.attributes.get(name) for name in ("start", "end"))
    seen = range(rank)[slice(0 if start is None else start.as_int(), rank if end is None else end.as_int())]
    places = [seen.index(axis) for axis in carried.of(node.inputs[0]) if axis in seen]
    for user in node.outputs[0].consumers():
        if places and (user.op_type != "Gather" or {n % len(seen) for n in numbers(user, 1)} & set(places)):
            raise StuckError(f"{user.name or user.op_type} reads the number of tokens")
    return [{}]


def without(axes: Axes, gone: set[int]) -> Axes:
    """Axes when others before them are gone."""
    return {axis - sum(g < axis for g in gone): front for axis, front in axes.items() if axis not in gone}


def _only_not(axes: Axes, axis: int) -> Axes:
    return {own: front for own, front in axes.items() if own != axis}


def numbers(node: ir.Node, place: int) -> list[int]:
    """A constant input.

    Raises:
        StuckError: it is computed.
    """
    value = node.inputs[place] if place < len(node.inputs) else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise StuckError("what it does is computed while it runs")
    return [int(number) for number in tensor.numpy().reshape(-1).tolist()]
