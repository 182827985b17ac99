"""Small edits that passes share: constants, nodes with typed outputs, what is known of a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import convenience
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

MOST = 65536  # elements of a constant that a pass may look at
FEW = 16  # numbers that name their constant


def is_op(node: ir.Node | None, *kinds: str) -> bool:
    """Whether `node` is one of these standard operators."""
    return node is not None and node.domain in {"", "ai.onnx"} and node.op_type in kinds


def dims(value: ir.Value | None) -> list[int | str | None] | None:
    """Sizes of a value: a number, the name of a dynamic size, or None; None for an unknown rank."""
    if value is None or value.shape is None:
        return None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def known(value: ir.Value | None, most: int = MOST) -> NDArray[Any] | None:
    """The data of a constant inside the file, of at most so many numbers; a tensor of a shard is never read."""
    if value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    producer = value.producer()
    if tensor is None and producer is not None and is_op(producer, "Constant"):
        tensor = convenience.get_const_tensor(value)
    if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.size > most:
        return None
    return tensor.numpy()


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def integers(graph: ir.Graph, numbers: Iterable[int] | int) -> ir.Value:
    """An int64 initialiser, the same one for the same few numbers."""
    data = np.array(numbers if isinstance(numbers, int) else list(numbers), np.int64)
    if data.size > FEW:
        return constant(graph, data, "integers")
    name = "integers" + "".join(f"_{number}" for number in data.reshape(-1)) + "_scalar" * (data.ndim == 0)
    there = known(graph.initializers.get(name))
    same = there is not None and there.dtype == data.dtype and np.array_equal(there, data)
    return graph.initializers[name] if same else constant(graph, data, name)


def constant(graph: ir.Graph, data: NDArray[Any], name: str) -> ir.Value:
    """An initialiser of a name of its own."""
    number, given = 0, name
    while name in graph.initializers:
        number += 1
        name = f"{given}_{number}"
    value = ir.val(name, const_value=ir.tensor(data, name=name))
    graph.register_initializer(value)
    return value


def made(
    kind: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    like: tuple[ir.DataType | None, Sequence[int | str | None] | None],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """The output of a new node, with its type and shape; the node is in no graph yet."""
    dtype, shape = like
    kept = None if shape is None else ir.Shape(shape)
    out = ir.Value(name=name, type=None if dtype is None else ir.TensorType(dtype), shape=kept)
    ir.node(kind, inputs, attributes or {}, outputs=[out], name=name)
    return out


def put_after(graph: ir.Graph, value: ir.Value, new: ir.Value) -> None:
    """Insert the node of `new` as early as `value` is there: behind its producer, or in front of all."""
    node, producer = new.producer(), value.producer()
    assert node is not None
    if producer is not None:
        graph.insert_after(producer, node)
    elif len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)


def replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Put the node of `new` in the place of the node of `old`; users and a graph output's name follow."""
    before, node = old.producer(), new.producer()
    assert before is not None
    assert node is not None
    convenience.replace_nodes_and_values(graph, before, [before], [node], [old], [new])


def tidy(model: ir.Model, rewrites: int) -> int:
    """Share equal nodes and drop what no one reads, behind `rewrites` of a pass.

    Returns the rewrites and shared nodes; if there were none, the nodes that no one read.
    """
    whole = len(model.graph)
    RemoveUnusedNodesPass()(model)
    read = len(model.graph)
    CommonSubexpressionEliminationPass()(model)
    done = rewrites + read - len(model.graph)
    RemoveUnusedNodesPass()(model)
    return done or whole - read
