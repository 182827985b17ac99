"""What the decompositions share: constants of a graph, and how one node becomes several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike
from onnx_ir import convenience

from graph_passes.base import PassResult
from graph_passes.edit import constant, dims, made

Dims = list[int | str | None]
INT64 = ir.DataType.INT64


class Constants:
    """Small initialisers of a graph, one for each value and type."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[ir.DataType, bytes, tuple[int, ...]], ir.Value] = {}

    def of(self, numbers: ArrayLike, dtype: ir.DataType = INT64) -> ir.Value:
        """The initialiser that holds these numbers."""
        array = np.asarray(numbers).astype(dtype.numpy())
        key = (dtype, array.tobytes(), array.shape)
        if key not in self._known:
            self._known[key] = constant(self._graph, array, f"legal_{dtype.name.lower()}_{len(self._known)}")
        return self._known[key]


class Writer:
    """The nodes that take the place of one, each with the type and the shape of what it makes."""

    def __init__(self, node: ir.Node) -> None:
        self.node, self.nodes = node, list[ir.Node]()

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        shape: Sequence[int | str | None] | None,
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """The output `[*shape]` of a new node; its type is the first input's if none is given."""
        name = f"{self.node.outputs[0].name}_{kind}_{len(self.nodes)}"  # unique, as names of values are
        value = made(kind, inputs, name, (dtype or inputs[0].dtype, shape), attributes)
        producer = value.producer()
        assert producer is not None
        self.nodes.append(producer)
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in another type, itself if it has it."""
        return value if value.dtype == dtype else self.op("Cast", [value], dims(value), dtype, to=dtype)

    def replace(self, graph: ir.Graph, result: ir.Value) -> None:
        """Put the nodes in the place of the one, whose only output `result` becomes."""
        old = self.node.outputs
        convenience.replace_nodes_and_values(graph, self.node, [self.node], self.nodes, old, [result])


def decompose(
    model: ir.Model, kind: str, refusal: Callable[[ir.Node], str], expand: Callable[[ir.Node], None]
) -> PassResult:
    """Expand every standard node of a kind; `refusal` says why one stays, nothing if it need not."""
    found = [node for node in model.graph if node.op_type == kind and not node.domain]
    refusals = {node: reason for node in found if (reason := refusal(node))}
    for node in found:
        if node not in refusals:
            expand(node)
    told = tuple(f"{kind} {node.name}: {reason}" for node, reason in refusals.items())
    return PassResult(len(found) - len(refusals), told)


def given(node: ir.Node, place: int) -> ir.Value | None:
    """An input, None where it was left out."""
    return node.inputs[place] if place < len(node.inputs) else None


def size(value: ir.Value | None, axis: int) -> int | None:
    """A static size, None where there is none."""
    found = dims(value)
    axis_size = found[axis] if found else None
    return axis_size if isinstance(axis_size, int) else None
