"""One table of cosines and sines for all layers, and one operator where casts hid the rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graph_passes.base import PassResult
from graph_passes.edit import constant, dims, integer, is_op, known, made, put_after, replace, tidy

ELEMENTWISE = ("Cos", "Sin", "Cast", "Neg", "Identity")


@dataclass(frozen=True)
class Rotation:
    """`x * cos + swapped(x) * sin`, with tables `[B,1,T,D]` whose two halves should be equal."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value


class Refusal(Exception):  # noqa: N818
    """Why a rotation stays as it is."""


def run(model: ir.Model) -> PassResult:
    """Fuse rotations into RotaryEmbedding and share what computes their tables.

    In 16-bit graphs the tables are computed in fp32 and cast, which hides the pattern from onnxscript's own fusion.
    The operator reads half of each table `[B,T,D/2]`: the same numbers, computed once. It may round between its
    products otherwise than three operators do. Positions that are gathered keep a table of their own: it is computed
    once for each cut, not for each layer, and costs less than gathering rows of the first one.
    """
    graph, halves = model.graph, dict[ir.Value, ir.Value]()
    fused, refusals = 0, []
    for node in list(graph):
        rotation = _rotation(node)
        if rotation is None:
            continue
        try:
            _fuse(graph, node, rotation, halves)
            fused += 1
        except Refusal as reason:
            refusals.append(f"rotation {node.outputs[0].name} stays: {reason}")
    return PassResult(tidy(model, fused), tuple(refusals))


def _rotation(node: ir.Node) -> Rotation | None:
    """The rotation that ends in this Add."""
    if not is_op(node, "Add"):
        return None
    products = [value.producer() if value is not None else None for value in node.inputs]
    for straight, across in (products, products[::-1]):
        for x, cos in _factors(straight):
            for swapped, sin in _factors(across):
                if _swapped(swapped) is x:
                    return Rotation(x, cos, sin)
    return None


def _factors(node: ir.Node | None) -> list[tuple[ir.Value, ir.Value]]:
    if node is None or not is_op(node, "Mul"):
        return []
    first, second = node.inputs
    return [] if first is None or second is None else [(first, second), (second, first)]


def _swapped(value: ir.Value) -> ir.Value | None:
    """The x of `Concat(-x[..., D/2:], x[..., :D/2])`."""
    node, shape = value.producer(), dims(value)
    if node is None or not is_op(node, "Concat") or shape is None or len(node.inputs) != 2:
        return None
    width = shape[-1]
    if not isinstance(width, int) or width % 2 or integer(node, "axis", 0) % len(shape) != len(shape) - 1:
        return None
    minus = node.inputs[0].producer() if node.inputs[0] is not None else None
    if minus is None or not is_op(minus, "Neg"):
        return None
    upper, lower = _slice(minus.inputs[0]), _slice(node.inputs[1])
    if upper is None or lower is None or upper[0] is not lower[0]:
        return None
    right = lower[1:] == (0, width // 2) and upper[1:] == (width // 2, width)
    return upper[0] if right and dims(upper[0]) == shape else None


def _slice(value: ir.Value | None) -> tuple[ir.Value, int, int] | None:
    """`(x, start, end)` of a Slice along the last axis."""
    node = value.producer() if value is not None else None
    x = node.inputs[0] if node is not None and is_op(node, "Slice") else None
    shape = dims(x)
    if node is None or x is None or shape is None or not isinstance(shape[-1], int) or len(node.inputs) < 4:
        return None
    found = [known(bound) for bound in node.inputs[1:]]
    if any(bound is None or bound.size != 1 for bound in found):
        return None
    start, end, axis, *step = [int(bound.item()) for bound in found if bound is not None]
    if axis % len(shape) != len(shape) - 1 or step not in ([], [1]) or start < 0 or end < 0:
        return None
    return x, start, min(end, shape[-1])


def _fuse(graph: ir.Graph, node: ir.Node, rotation: Rotation, halves: dict[ir.Value, ir.Value]) -> None:
    shape = dims(rotation.x)
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        raise Refusal("its input is not [batch, heads, tokens, width] with a known number of heads")
    cos, sin = (_table(graph, table, shape, halves) for table in (rotation.cos, rotation.sin))
    out = node.outputs[0]
    settings = {"interleaved": 0, "num_heads": shape[1]}
    new = made("RotaryEmbedding", [rotation.x, cos, sin], f"{out.name}_rotary", (out.dtype, dims(out)), settings)
    replace(graph, out, new)


def _table(
    graph: ir.Graph, table: ir.Value, shape: list[int | str | None], halves: dict[ir.Value, ir.Value]
) -> ir.Value:
    """`[B,T,D/2]` of a table `[B,1,T,D]`."""
    if table in halves:
        return halves[table]
    data, width = known(table), shape[3]
    if data is not None and data.shape == (shape[0], 1, *shape[2:]) and isinstance(width, int):
        left, right = np.split(data[:, 0], [width // 2], axis=-1)
        if np.array_equal(left, right):
            halves[table] = constant(graph, left, f"{table.name}_half")
            return halves[table]
    flat, node = table, table.producer()
    if node is not None and is_op(node, "Unsqueeze") and node.inputs[0] is not None:
        axes = known(node.inputs[1])
        flat = node.inputs[0] if axes is not None and axes.reshape(-1).tolist() in ([1], [-3]) else table
    if flat is table:
        raise Refusal(f"its table {table.name} is not [batch, 1, tokens, width]")
    if dims(flat) != [shape[0], shape[2], shape[3]] or None in (dims(flat) or []):
        raise Refusal(f"its table {table.name} is broadcast over the batch, or of another length")
    return _half(graph, flat, halves)


def _half(graph: ir.Graph, value: ir.Value, halves: dict[ir.Value, ir.Value]) -> ir.Value:
    """The first half of a value whose last axis holds the same numbers twice, computed without the second."""
    if value in halves:
        return halves[value]
    node = value.producer()
    if node is not None and is_op(node, "Concat") and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]:
        last = len(dims(value) or []) - 1
        if node.inputs[0] is not None and integer(node, "axis", 0) in (-1, last):
            return node.inputs[0]
    if node is None or not (is_op(node, *ELEMENTWISE) or _scaled(node)):
        raise Refusal(f"the halves of its table are not known to be equal ({value.name})")
    source = next(given for given in node.inputs if given is not None and known(given) is None)
    inner = _half(graph, source, halves)
    inputs = [inner if given is source else given for given in node.inputs]
    kind = (value.dtype, dims(inner))
    attributes: Mapping[str, ir.Attr] = node.attributes
    half = made(node.op_type, inputs, f"{value.name}_half", kind, dict(attributes))
    put_after(graph, value, half)
    halves[value] = half
    return half


def _scaled(node: ir.Node) -> bool:
    """A product with one number."""
    constants = [known(given) for given in node.inputs]
    return is_op(node, "Mul") and sum(c is not None and np.size(c) == 1 for c in constants) == 1
