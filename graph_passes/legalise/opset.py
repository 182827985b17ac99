"""The opset that a graph imports: it changes only if every node means the same there."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graph_passes.base import PassResult

OLD = (20, 9)  # runtimes that know no later opset know no later form of file, either
REDEFINED = {"GroupNormalization"}  # the same name for something else since opset 21


def run(model: ir.Model, opset: int) -> PassResult:
    """Import `opset`, after a look at each node: operator, attributes, number and types of inputs must exist there.

    Functions move with their graph. Refused as a whole, and then nothing changes. Types of values that are not known
    are taken for legal.
    """
    if model.opset_imports.get("") == opset:
        return PassResult()
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    nodes = [node for graph in graphs for node in graph.all_nodes() if not node.domain]
    refusals = tuple(f"{node.op_type} {node.name}: {reason}" for node in nodes if (reason := _illegal(node, opset)))
    if not refusals:
        for graph in graphs:
            graph.opset_imports[""] = opset
        if opset <= OLD[0]:
            model.ir_version = min(model.ir_version, OLD[1])
        for node in nodes:
            node.version = None
    return PassResult(int(not refusals), refusals)


def _illegal(node: ir.Node, opset: int) -> str:
    """What of a node an opset does not have."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return f"not an operator of opset {opset}"
    if node.op_type in REDEFINED:
        return f"another operator at opset {opset}"
    if unknown := sorted(node.attributes.keys() - schema.attributes.keys()):
        return f"no attribute {unknown[0]} at opset {opset}"
    if len(node.inputs) > schema.max_input:
        return f"at most {schema.max_input} inputs at opset {opset}"
    for place, value in enumerate(node.inputs):
        kind = None if value is None or value.dtype is None else f"tensor({value.dtype.name.lower()})"
        if kind and kind not in schema.inputs[min(place, len(schema.inputs) - 1)].types:
            return f"no {kind} at opset {opset}"
    return ""
