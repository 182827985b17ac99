"""How operators hand the axes of tokens on: one rule an operator; what has no rule is refused."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from exporter.graft import moves
from exporter.graft.carried import Axes, Carried, StuckError
from exporter.graft.moves import numbers, without

Rule = Callable[[ir.Node, Carried], list[Axes]]


def unknown(node: ir.Node, carried: Carried) -> list[Axes]:
    """What has no rule."""
    del node, carried
    raise StuckError("what it does to tokens is not known")


def each(node: ir.Node, carried: Carried) -> list[Axes]:
    """Element by element, of one value."""
    return [carried.of(node.inputs[0])]


def along(node: ir.Node, carried: Carried) -> list[Axes]:
    """Normalised along the last axes; the first output alone is read."""
    axes = carried.of(node.inputs[0])
    rank = len(carried.before(node.inputs[0]))
    attribute = node.attributes.get("axis")
    first = (-1 if attribute is None else attribute.as_int()) % rank
    if any(axis >= first for axis in axes):
        raise StuckError("it takes all tokens together")
    return [axes, *[{} for _ in node.outputs[1:]]]


def together(node: ir.Node, carried: Carried) -> list[Axes]:
    """Element by element, of several values that are broadcast; tables of one row a token are gathered."""
    ranks = [len(carried.before(value)) for value in node.inputs]
    rank = max(ranks)
    found: Axes = {}
    for value, own in zip(node.inputs, ranks, strict=True):
        for axis, front in carried.of(value).items():
            if found.setdefault(axis + rank - own, front) != front:
                raise StuckError("rows of two kinds meet")
    for place, value in enumerate(node.inputs):
        for axis, front in found.items():
            _aligned(node, carried, place, value, axis, front, rank)
    return [found]


def _aligned(
    node: ir.Node, carried: Carried, place: int, value: ir.Value | None, axis: int, front: int, rank: int
) -> None:
    """One operand beside tokens: has them too, is the same for all, or is a table."""
    sizes = carried.before(value)
    own = axis - (rank - len(sizes))
    if own in carried.of(value) or own < 0 or sizes[own] == 1:
        return
    if sizes[own] != carried.old + front:
        raise StuckError(f"{None if value is None else value.name} has {sizes[own]} rows beside {carried.old + front}")
    carried.table(node, place, axis, front, rank)


def product(node: ir.Node, carried: Carried) -> list[Axes]:
    """MatMul: rows of the left, columns of the right; tokens are summed only where both sides have them."""
    left, right = node.inputs
    one, two = carried.of(left), carried.of(right)
    ranks = len(carried.before(left)), len(carried.before(right))
    if min(ranks) < 2:
        raise StuckError("a product with a vector")
    if one.get(ranks[0] - 1) != two.get(ranks[1] - 2):
        raise StuckError("it mixes all tokens by weights of its own")
    rank = max(ranks)
    found = {axis + rank - ranks[0]: front for axis, front in one.items() if axis != ranks[0] - 1}
    for axis, front in two.items():
        if axis != ranks[1] - 2 and found.setdefault(axis + rank - ranks[1], front) != front:
            raise StuckError("rows of two kinds meet")
    for axis in found:
        if axis < rank - 2:
            _batched(carried, node, axis, rank)
    return [found]


def _batched(carried: Carried, node: ir.Node, axis: int, rank: int) -> None:
    """One product a token: the other side has them too, or is the same for all."""
    for value in node.inputs[:2]:
        sizes = carried.before(value)
        own = axis - (rank - len(sizes))
        if own >= 0 and own not in carried.of(value) and sizes[own] != 1:
            raise StuckError("it has weights of its own for every token")


def linear(node: ir.Node, carried: Carried) -> list[Axes]:
    """Gemm of rows by weights."""
    turned = node.attributes.get("transA")
    if (len(node.inputs) > 1 and carried.of(node.inputs[1])) or (turned is not None and turned.as_int()):
        raise StuckError("tokens are not the rows of its left side")
    return [{axis: front for axis, front in carried.of(node.inputs[0]).items() if axis == 0}]


def attention(node: ir.Node, carried: Carried) -> list[Axes]:
    """The operator of opset 23: keys and values of the same rows."""
    q, k, v = (carried.of(value) for value in node.inputs[:3])
    causal = node.attributes.get("is_causal")
    if any(value is not None for value in node.inputs[3:]) or (causal is not None and causal.as_int()):
        raise StuckError("it has a mask or a cache")
    axis = len(carried.before(node.inputs[0])) - 2
    if k != v or not set(q) | set(k) <= {axis}:
        raise StuckError("keys and values have other rows")
    return [q]


def mean(node: ir.Node, carried: Carried) -> list[Axes]:
    """Mean or extremes, over tokens too: those that are there."""
    sizes = carried.before(node.inputs[0])
    listed = node.attributes.get("axes")
    given = listed.as_ints() if listed is not None else numbers(node, 1)
    gone = {axis % len(sizes) for axis in given}
    kept = node.attributes.get("keepdims")
    axes = carried.of(node.inputs[0])
    if kept is None or kept.as_int():
        return [{axis: front for axis, front in axes.items() if axis not in gone}]
    return [without(axes, gone)]


def total(node: ir.Node, carried: Carried) -> list[Axes]:
    """Sums, not over tokens: what divides them by a number of tokens would not be seen."""
    found = mean(node, carried)
    if len(found[0]) < len(carried.of(node.inputs[0])):
        raise StuckError("it sums over all tokens")
    return found


_EACH = """
Abs Cast Ceil Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsNaN LeakyRelu Log LogSoftmax
Mish Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Tanh
"""  # a softmax over tokens is one over those that are there
_BOTH = """
Add And BitShift Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub Sum Where Xor
"""
RULES: dict[str, Rule] = {
    **dict.fromkeys(_EACH.split(), each),
    **dict.fromkeys(_BOTH.split(), together),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), along),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin"), mean),
    "ReduceSum": total,
    "MatMul": product,
    "Gemm": linear,
    "Attention": attention,
    "Transpose": moves.turn,
    "Reshape": moves.reshape,
    "Unsqueeze": moves.unsqueeze,
    "Squeeze": moves.squeeze,
    "Concat": moves.concat,
    "Split": moves.split,
    "Slice": moves.part,
    "Gather": moves.pick,
    "Expand": moves.expand,
    "Shape": moves.measured,
}
