"""Rows written into constant caches one after the other: TensorScatter, which TensorRT does in place."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graph_passes.base import PassResult
from graph_passes.edit import dims, integer
from graph_passes.legalise.writer import Constants, Writer, size

AXIS = 2  # of slots in `[B,H,N,d]`


def run(model: ir.Model, consecutive: Collection[str] = ()) -> PassResult:
    """Replace `ScatterElements(cache, slots, rows)` by `TensorScatter(cache, rows, slots[:, 0])`.

    Args:
        model: of opset 24.
        consecutive: inputs `[B,T]` of which is promised that each number is one more than the one before.

    The index must be such an input, spread over heads and width; with T = 1 any input `[B,1]` does. Refused: other
    writes along the slots of a cache.
    """
    found = [node for node in model.graph if node.op_type == "ScatterElements" and _into_cache(node)]
    constants, refusals, firsts = Constants(model.graph), list[str](), dict[ir.Value, ir.Value]()
    for node in found:
        slots = _slots(node)
        if slots is None or not (slots.name in consecutive or size(slots, 1) == 1):
            refusals.append(f"ScatterElements {node.name}: nothing says that its rows are consecutive")
            continue
        write, (cache, _, rows) = Writer(node), [value for value in node.inputs if value is not None]
        if slots not in firsts:
            firsts[slots] = write.op("Gather", [slots, constants.of(0)], (dims(slots) or [])[:1], axis=1)
        write.replace(model.graph, write.op("TensorScatter", [cache, rows, firsts[slots]], dims(cache), axis=AXIS))
    RemoveUnusedNodesPass()(model)
    return PassResult(len(found) - len(refusals), tuple(refusals))


def _into_cache(node: ir.Node) -> bool:
    """Whether rows are written, not summed, into an input `[B,H,N,d]`."""
    cache, reduction = node.inputs[0], node.attributes.get("reduction")
    plain = reduction is None or reduction.as_string() == "none"
    known = cache is not None and cache.is_graph_input() and cache.shape is not None and len(cache.shape) == 4
    return plain and known and integer(node, "axis", 0) % 4 == AXIS


def _slots(node: ir.Node) -> ir.Value | None:
    """The input `[B,T]` that an index `[B,H,T,d]` repeats."""
    spread = _made_by(node.inputs[1], {"Expand"})
    column = None if spread is None else spread.inputs[0]
    alone = column is not None and column.shape is not None and len(column.shape) == 4
    if not alone or (size(column, 1), size(column, 3)) != (1, 1):
        return None
    while (step := _made_by(column, {"Unsqueeze"})) is not None:
        column = step.inputs[0]
    found = column is not None and column.is_graph_input() and column.shape is not None and len(column.shape) == 2
    return column if found else None


def _made_by(value: ir.Value | None, operators: set[str]) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in operators else None
