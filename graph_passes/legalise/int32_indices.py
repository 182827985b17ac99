"""Inputs and outputs of int64 become int32, for runtimes and hosts that hold indices in 32 bits."""

from __future__ import annotations

import onnx_ir as ir

from graph_passes.base import PassResult

NARROW, WIDE = ir.DataType.INT32, ir.DataType.INT64


def run(model: ir.Model) -> PassResult:
    """Give every int64 input and output int32 and one Cast at the border; inside nothing changes.

    Exact for what fits into 32 bits: tokens, positions, slots, masks. `rewrites` counts inputs and outputs; an input
    that is an output as well passes through.
    """
    inputs = [value for value in model.graph.inputs if value.dtype == WIDE]
    outputs = enumerate(model.graph.outputs)
    places = [place for place, value in outputs if value.dtype == WIDE and not value.is_graph_input()]
    casts = [_widened(value) for value in inputs]
    for cast in reversed(casts):
        first = next(iter(model.graph), None)
        if first is None:
            model.graph.append(cast)
        else:
            model.graph.insert_before(first, cast)
    for place in places:
        _narrowed(model.graph, place)
    return PassResult(len(inputs) + len(places))


def _widened(value: ir.Value) -> ir.Node:
    """The Cast that all readers of an input read from now on."""
    wide = ir.Value(name=f"{value.name}_int64", type=ir.TensorType(WIDE), shape=value.shape)
    cast = ir.node("Cast", [value], {"to": WIDE}, outputs=[wide], name=f"{value.name}_from_int32")
    for reader, place in list(value.uses()):
        if reader is not cast:
            reader.replace_input_with(place, wide)
    value.dtype = NARROW
    return cast


def _narrowed(graph: ir.Graph, place: int) -> None:
    """An output under its own name behind a Cast; what it was has another name."""
    inside = graph.outputs[place]
    name, shape = inside.name, inside.shape
    inside.name = f"{name}_int64"
    out = ir.Value(name=name, type=ir.TensorType(NARROW), shape=shape)
    graph.append(ir.node("Cast", [inside], {"to": NARROW}, outputs=[out], name=f"{name}_to_int32"))
    graph.outputs[place] = out
