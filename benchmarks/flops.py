"""FLOPs of an ONNX graph: its matrix products, attentions and convolutions at batch 1. One multiply-add = 2 FLOPs."""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

AXES = {"words": 40}  # a prompt of usual length; every other dynamic axis is 1


def graph_flops(model: ir.Model) -> float:
    """FLOPs of one run; the body of a Loop counts as often as it runs."""
    for value in model.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape([size if isinstance(size, int) else AXES.get(str(size), 1) for size in value.shape])
    for node in model.graph.all_nodes():  # what tracing noted holds dynamic axes
        for value in node.outputs:
            value.shape = None
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    return _flops(ir.from_proto(inferred).graph)


def _flops(graph: ir.Graph) -> float:
    return sum(_node(node) for node in graph)


def _node(node: ir.Node) -> float:
    if node.op_type == "Loop":
        trips = node.inputs[0]
        assert trips is not None
        assert trips.const_value is not None
        return float(trips.const_value.numpy().item()) * _flops(node.attributes["body"].as_graph())
    if node.op_type in {"MatMul", "Gemm"}:
        return 2.0 * math.prod(_shape(node.outputs[0])) * _shape(node.inputs[0])[-1]
    if node.op_type == "Conv":
        return 2.0 * math.prod(_shape(node.outputs[0])) * math.prod(_shape(node.inputs[1])[1:])
    if node.op_type == "Attention":
        batch, heads, rows, width = _shape(node.inputs[0])
        return 4.0 * batch * heads * rows * width * _shape(node.inputs[1])[2]
    return 0.0


def _shape(value: ir.Value | None) -> list[int]:
    assert value is not None
    assert value.shape is not None, f"no shape is known for {value.name}"
    return [int(size) for size in value.shape]  # type: ignore[arg-type]
