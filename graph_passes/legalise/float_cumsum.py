"""CumSum of whole numbers in fp32, for runtimes whose CumSum takes floats only."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from graph_passes.base import PassResult
from graph_passes.edit import dims, is_op
from graph_passes.legalise.writer import Writer, given

FLOAT, WHOLE = ir.DataType.FLOAT, (ir.DataType.INT32, ir.DataType.INT64)


def run(model: ir.Model) -> PassResult:
    """Cast the numbers of every whole CumSum to fp32 and the sums back.

    Exact while sums stay below 2^24, as those of masks and of tokens do. Refused: a type that is not known.
    """
    sums = [node for node in model.graph if is_op(node, "CumSum")]
    types = {node: value.dtype for node in sums if (value := given(node, 0)) is not None}
    whole = [node for node, dtype in types.items() if dtype in WHOLE]
    for node in whole:
        _cast(model.graph, node, types[node] or FLOAT)
    unknown = tuple(f"CumSum {node.name}: its type is not known" for node, dtype in types.items() if dtype is None)
    return PassResult(len(whole), unknown)


def _cast(graph: ir.Graph, node: ir.Node, dtype: ir.DataType) -> None:
    write, (value, axis) = Writer(node), (value for value in node.inputs if value is not None)
    attributes: dict[str, Any] = {key: attribute.as_int() for key, attribute in node.attributes.items()}
    real = write.op("CumSum", [write.cast(value, FLOAT), axis], dims(value), **attributes)
    write.replace(graph, write.cast(real, dtype))
