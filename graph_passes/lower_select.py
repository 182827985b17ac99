"""Lower selection markers to standard operators: the last pass of every published graph."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import convenience

from graph_passes.base import PassResult

DOMAIN, OP = "tp.export", "Select"


def run(model: ir.Model) -> PassResult:
    """Replace each `tp.export::Select(scores) -> indices` by TopK and an ascending sort of its indices.

    ONNX TopK promises the lower index on ties. The sort is a second TopK over int64 with `largest=0`: no float ever
    holds an index. A marker whose `k` equals the row length still sorts, so every graph has the same form.
    """
    markers = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OP)]
    for marker in markers:
        _lower(model.graph, marker)
    model.opset_imports.pop(DOMAIN, None)
    return PassResult(len(markers))


def _lower(graph: ir.Graph, marker: ir.Node) -> None:
    scores, indices = marker.inputs[0], marker.outputs[0]
    assert scores is not None
    name = marker.name or indices.name or OP
    count = ir.tensor([marker.attributes["k"].as_int()], name=f"{name}_k")
    k = ir.Value(name=f"{name}_k", const_value=count, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    graph.register_initializer(k)
    best, ascending = pair(name, scores, k)
    for value in (*best.outputs, *ascending.outputs):
        value.dtype, value.shape = ir.DataType.INT64, indices.shape
    best.outputs[0].dtype = ir.DataType.FLOAT
    convenience.replace_nodes_and_values(graph, marker, [marker], [best, ascending], [indices], [ascending.outputs[0]])


def pair(name: str, scores: ir.Value, k: ir.Value) -> tuple[ir.Node, ir.Node]:
    """The two TopK: `k` best of the scores, and their indices (output 1) as values (output 0) in ascending order."""
    best = _top_k(name, "best", scores, k, largest=1)
    return best, _top_k(name, "sorted", best.outputs[1], k, largest=0)


def _top_k(name: str, step: str, values: ir.Value, k: ir.Value, *, largest: int) -> ir.Node:
    outputs = [ir.Value(name=f"{name}_{step}_values"), ir.Value(name=f"{name}_{step}_indices")]
    return ir.node(
        "TopK",
        [values, k],
        {"axis": -1, "largest": largest, "sorted": 1},
        outputs=outputs,
        name=f"{name}_{step}",
    )
