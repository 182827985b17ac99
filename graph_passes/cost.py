"""What running a graph once costs: nodes, FLOPs, bytes that its nodes write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Shape", "Size", "Constant"}  # write nothing


@dataclass(frozen=True)
class Cost:
    """One multiply-add is 2 FLOPs; None where the graph does not know the shapes yet."""

    nodes: int
    flops: float | None
    bytes: float | None


def cost(model: ir.Model, axes: Mapping[str, int]) -> Cost:
    """Count a graph from the shapes that its values carry; nothing is inferred, no weight is read.

    FLOPs are those of matrix products, attentions (the whole square) and convolutions; the body of a Loop counts as
    often as it runs, and its bytes are left out. `axes` sizes the dynamic axes, numbered ones (`past.1`) by their stem;
    those it does not name are 1.
    """
    sizes: dict[str, int] = {}

    def size(dim: int | ir.SymbolicDim) -> int:
        if isinstance(dim, int):
            return dim
        if (text := str(dim)) not in sizes:
            found = dim.evaluate({name: _axis(name, axes) for name in dim.free_symbols()})
            sizes[text] = found if isinstance(found, int) else 1
        return sizes[text]

    def shape(value: ir.Value | None) -> list[int]:
        if value is None or value.shape is None:
            raise LookupError
        return [size(dim) for dim in value.shape]

    graph = model.graph
    return Cost(len(graph), _known(lambda: _flops(graph, shape)), _known(lambda: _bytes(graph, shape)))


def _axis(name: str, axes: Mapping[str, int]) -> int:
    return axes.get(name, axes.get(name.partition(".")[0], 1))


Sizes = Callable[[ir.Value | None], list[int]]


def _known(count: Callable[[], float]) -> float | None:
    try:
        return count()
    except LookupError:
        return None


def _flops(graph: ir.Graph, shape: Sizes) -> float:
    return sum(_node(node, shape) for node in graph)


def _node(node: ir.Node, shape: Sizes) -> float:
    if node.op_type == "Loop":
        return _trips(node) * _flops(node.attributes["body"].as_graph(), shape)
    if node.op_type in {"MatMul", "Gemm"}:
        first = shape(node.inputs[0])
        summed = first[0] if node.attributes.get_int("transA", 0) else first[-1]
        return 2.0 * math.prod(shape(node.outputs[0])) * summed
    if node.op_type == "Conv":
        return 2.0 * math.prod(shape(node.outputs[0])) * math.prod(shape(node.inputs[1])[1:])
    if node.op_type == "Attention":
        return _attention(node, shape)
    return 0.0


def _attention(node: ir.Node, shape: Sizes) -> float:
    """Both products of `[B,H,S,d]` with `[B,H',T,d]`, or of the same packed in three axes."""
    query, key = shape(node.inputs[0]), shape(node.inputs[1])
    return 4.0 * math.prod(query) * key[-2]


def _trips(node: ir.Node) -> float:
    trips = node.inputs[0]
    known = None if trips is None else trips.const_value
    return 1.0 if known is None else float(known.numpy().item())


def _bytes(graph: ir.Graph, shape: Sizes) -> float:
    written = [value for node in graph if node.op_type not in VIEWS for value in node.outputs if _read(value)]
    return sum(math.prod(shape(value)) * (value.dtype.itemsize if value.dtype else 4) for value in written)


def _read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
