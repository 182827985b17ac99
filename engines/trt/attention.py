"""Attention in an ONNX graph: where it is, and what in the graph keeps it from becoming one kernel."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

HARMLESS = {"Add", "Cast", "Div", "Expand", "Identity", "Max", "Min", "Mul", "Reshape", "Sub", "Where"}  # on logits
STEPS = HARMLESS | {"Clip", "Tanh"}  # what may stand between the products and the softmax
UNCHANGED = {"Cast", "Dropout", "Identity"}
WIDEST_HEAD = 256
LONGEST_WAY = 6


@dataclass(frozen=True)
class Attention:
    """An attention layer of a graph.

    Attributes:
        node: the Attention or Softmax node, as the parser calls it.
        why: what keeps it from becoming one kernel; empty if nothing is known to.
    """

    node: str
    why: str


def attention(graph: ir.Graph) -> list[Attention]:
    """Every Attention node and every MatMul-Softmax-MatMul, in order; values must have types."""
    found = []
    for node in graph:
        if node.op_type == "Attention":
            found.append(Attention(name_of(node), _whole(node)))
        elif node.op_type == "Softmax" and (why := _explicit(node)) is not None:
            found.append(Attention(name_of(node), why))
    return found


def name_of(node: ir.Node) -> str:
    """What TensorRT's parser calls a node: one without a name is named after its first output."""
    return node.name or f"node_of_{node.outputs[0].name}"


def _whole(node: ir.Node) -> str:
    """Why an Attention node cannot be one kernel."""
    query = node.inputs[0]
    heads = node.attributes.get_int("q_num_heads", 0)
    width = _size(query, -1)
    if heads and width:
        return _narrow(query, width // heads, heads)
    return _narrow(query, width, _size(query, 1))


def _explicit(softmax: ir.Node) -> str | None:
    """Why it cannot be one kernel; None if the softmax is no attention."""
    down, up = _down(softmax.outputs[0]), _up(softmax.inputs[0])
    if down is None or up is None:
        return None
    (scores, before), (product, after) = up, down
    probabilities = [softmax, *after, product]
    logits = [scores, *reversed(before), softmax]
    return (
        _fp32(scores.inputs[0])
        or _readers("probabilities", probabilities)
        or _changed("probabilities", (node for node in after if node.op_type not in UNCHANGED))
        or _readers("logits", logits)
        or _changed("logits", (node for node in before if node.op_type not in HARMLESS))
        or _narrow(scores.inputs[0], _size(scores.inputs[0], -1), _heads(scores))
    )


Way = tuple[ir.Node, list[ir.Node]]  # a product, and what stands between it and the softmax


def _down(value: ir.Value | None, left: int = LONGEST_WAY) -> Way | None:
    """From probabilities to the product with the values."""
    users = value.uses() if value is not None and left else ()
    for user, index in users:
        if user.op_type == "MatMul" and index == 0:
            return user, []
    for user, _ in users:
        if user.op_type in STEPS | UNCHANGED and (way := _down(user.outputs[0], left - 1)):
            return way[0], [user, *way[1]]
    return None


def _up(value: ir.Value | None, left: int = LONGEST_WAY) -> Way | None:
    """From the softmax back to the product of queries and keys; what is nearest to the softmax comes first."""
    node = value.producer() if value is not None and left else None
    if node is None:
        return None
    if node.op_type == "MatMul":
        return node, []
    if node.op_type in STEPS:
        for source in node.inputs:
            if way := _up(source, left - 1):
                return way[0], [node, *way[1]]
    return None


def _readers(what: str, chain: list[ir.Node]) -> str:
    """Who else reads what each node of a chain hands to the next."""
    for node, following in pairwise(chain):
        value = node.outputs[0]
        if value.is_graph_output():
            return f"the graph hands out the {what}, '{value.name}'"
        if others := [user for user, _ in value.uses() if user is not following]:
            return f"{others[0].op_type} '{name_of(others[0])}' reads the {what}, too"
    return ""


def _changed(what: str, nodes: Iterable[ir.Node]) -> str:
    return next((f"{node.op_type} '{name_of(node)}' changes the {what}" for node in nodes), "")


def _fp32(value: ir.Value | None) -> str:
    wide = value is not None and value.dtype == ir.DataType.FLOAT
    return "queries and keys are fp32" if wide else ""


def _narrow(query: ir.Value | None, width: int, heads: int) -> str:
    """What the kernels cannot take, whoever writes it; 0 for sizes that are not known."""
    if why := _fp32(query):
        return why
    if width > WIDEST_HEAD:
        return f"heads are {width} wide, kernels take {WIDEST_HEAD}"
    return "a single head in a batch of one has no kernel" if heads == 1 else ""


def _heads(product: ir.Node) -> int:
    """Heads of [batch, heads, queries, keys]; all that is before the matrices, if it is one axis."""
    shape = product.outputs[0].shape
    return _size(product.outputs[0], -3) if shape is not None and len(shape) > 2 else 0


def _size(value: ir.Value | None, axis: int) -> int:
    """A static size, or 0."""
    shape = value.shape if value is not None else None
    if shape is None or not -len(shape) <= axis < len(shape):
        return 0
    size = shape[axis]
    return size if isinstance(size, int) else 0
