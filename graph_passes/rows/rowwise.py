"""How rows pass operators that compute: elementwise, products, norms, reductions, attention.

A rule takes a node and the rows wanted of its first output and says which rows of its inputs that takes.
"""

from __future__ import annotations

import onnx_ir as ir

from graph_passes.edit import integer
from graph_passes.rows.picks import Plan, Rows
from graph_passes.rows.sizes import Refused, ints, same, shape_of


def aligned(rows: Rows, out: ir.Value, operand: ir.Value) -> Rows | None:
    """The rows of an operand that broadcasts to `out`; None if all its rows are one.

    Raises:
        Refused: it is not known how it broadcasts, or it broadcasts over a part of the batch.
    """
    wide, narrow = shape_of(out), shape_of(operand)
    offset = len(wide) - len(narrow)
    axis = rows.axis - offset
    if axis < 0 or narrow[axis] == 1:
        return None
    if not same(narrow[axis], wide[rows.axis]):
        raise Refused("it is not known how its inputs broadcast")
    kept = [b - offset for b in rows.batch if b >= offset and same(narrow[b - offset], wide[b])]
    if len(kept) == len(rows.batch):
        return rows.at(axis, kept)
    if kept or rows.batch != tuple(range(rows.axis)) or any(size != 1 for size in narrow[:axis]):
        raise Refused("an input broadcasts over the batch")
    return rows.at(axis, ())


def elementwise(node: ir.Node, rows: Rows) -> Plan:
    """Every operand that has the rows gives them."""
    needs = {i: aligned(rows, node.outputs[0], each) for i, each in enumerate(node.inputs) if each is not None}
    return Plan({i: each for i, each in needs.items() if each is not None})


def matmul(node: ir.Node, rows: Rows) -> Plan:
    """Rows of a product are rows of its left side; leading axes are axes of both."""
    rank = len(shape_of(node.outputs[0]))
    left, right = node.inputs
    assert left is not None
    assert right is not None
    if rank < 2 or len(shape_of(left)) < 2 or len(shape_of(right)) < 2 or rows.axis == rank - 1:
        raise Refused("columns of a product are wanted")
    if rows.axis == rank - 2:
        return Plan(_given({0: aligned(rows, node.outputs[0], left)}))
    return Plan(_given({i: aligned(rows, node.outputs[0], each) for i, each in enumerate((left, right))}))


def gemm(node: ir.Node, rows: Rows) -> Plan:
    """Rows of a product are rows of its left side, and of its bias if that has rows."""
    if rows.axis != 0:
        raise Refused("columns of a product are wanted")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    needs: dict[int, Rows | None] = {0: rows.at(1 if integer(node, "transA", 0) else 0, ())}
    if bias is not None:
        needs[2] = aligned(rows, node.outputs[0], bias)
    return Plan(_given(needs))


def norm(node: ir.Node, rows: Rows) -> Plan:
    """Each row is normalised by itself if its axis comes before the normalised ones."""
    rank = len(shape_of(node.outputs[0]))
    first = integer(node, "axis", -1) % rank
    if rows.axis >= first or any(len(shape_of(each)) > rank - first for each in node.inputs[1:] if each is not None):
        raise Refused("the normalised axes are among the wanted")
    return Plan({0: rows})


def softmax(node: ir.Node, rows: Rows) -> Plan:
    """Each row of another axis stands alone."""
    if integer(node, "axis", -1) % len(shape_of(node.outputs[0])) in {rows.axis, *rows.batch}:
        raise Refused("it runs along the wanted rows")
    return Plan({0: rows})


def reduction(node: ir.Node, rows: Rows) -> Plan:
    """What is reduced are other axes."""
    rank = len(shape_of(node.inputs[0]))
    axes = node.attributes.get_ints("axes") or (ints(node.inputs[1]) if len(node.inputs) > 1 else None)
    if not axes:
        raise Refused("its axes are not known")
    gone = {axis % rank for axis in axes}
    if integer(node, "keepdims", 1):
        return Plan({0: rows})
    left = [axis for axis in range(rank) if axis not in gone]
    return Plan({0: rows.at(left[rows.axis], [left[b] for b in rows.batch])})


def attention(node: ir.Node, rows: Rows) -> Plan:
    """Each query stands alone: rows of the queries and of the mask, all keys and values."""
    out, rank = node.outputs[0], len(shape_of(node.outputs[0]))
    if integer(node, "is_causal", 0):
        raise Refused("a causal mask counts the queries")
    if rows.axis != rank - 2:
        raise Refused("what is wanted are not queries")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    needs: dict[int, Rows | None] = {0: aligned(rows, out, _as(node.inputs[0], out, rank - 2))}
    if mask is not None:
        needs[3] = _of_mask(rows, out, mask)
    return Plan(_given(needs))


def rotary(node: ir.Node, rows: Rows) -> Plan:
    """Each row is turned by itself: rows of the input, and of the tables or of the positions."""
    rank = len(shape_of(node.outputs[0]))
    if rows.axis != rank - 2 or rows.batch not in {(), (0,)}:
        raise Refused("what is wanted are not positions")
    needs = {0: rows}
    flat = Rows(1, rows.pick, rows.batch)
    positions = node.inputs[3] if len(node.inputs) > 3 else None
    if positions is not None:
        return Plan({**needs, 3: _batched(flat, node, positions)})
    for i in (1, 2):
        table = node.inputs[i]
        if len(shape_of(table)) != 3:
            raise Refused("its tables are not by row")
        needs[i] = _batched(flat, node, table)
    return Plan(needs)


def _batched(rows: Rows, node: ir.Node, operand: ir.Value | None) -> Rows:
    """The same rows of positions or tables `[batch or 1, rows, ...]`."""
    shape, out = shape_of(operand), shape_of(node.outputs[0])
    if not same(shape[1], out[-2]):
        raise Refused("its tables are not by row")
    if not rows.batch or same(shape[0], out[0]):
        return rows
    if shape[0] != 1:
        raise Refused("its tables are not by row")
    return rows.at(1, ())


def _as(operand: ir.Value | None, out: ir.Value, axis: int) -> ir.Value:
    """The operand, if it is as long as `out` along `axis`."""
    shape, wide = shape_of(operand), shape_of(out)
    if len(shape) != len(wide) or not same(shape[axis], wide[axis]):
        raise Refused("its queries are laid out otherwise")
    assert operand is not None
    return operand


def _of_mask(rows: Rows, out: ir.Value, mask: ir.Value) -> Rows | None:
    """Rows of a mask `[..., queries or 1, keys]` that broadcasts over `[B,H,queries,keys]`."""
    shape, wide = shape_of(mask), shape_of(out)
    if len(wide) == 3:
        wide = [wide[0], 1, *wide[1:]]
        rows = Rows(2, rows.pick, rows.batch)
    offset, axis = 4 - len(shape), len(shape) - 2
    if axis < 0 or shape[axis] == 1:
        return None
    if not same(shape[axis], wide[2]):
        raise Refused("its mask is laid out otherwise")
    kept = [b - offset for b in rows.batch if b >= offset and same(shape[b - offset], wide[b])]
    if len(kept) == len(rows.batch):
        return rows.at(axis, kept)
    raise Refused("its mask broadcasts over the batch")


def _given(needs: dict[int, Rows | None]) -> dict[int, Rows]:
    return {i: each for i, each in needs.items() if each is not None}
