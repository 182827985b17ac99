"""The uncut model with the dropped tokens hidden from every later attention: what a cut must agree with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.graft.blocks import Block

HIDDEN = -1e4  # fits fp16, and its exponential is zero


def hide(graph: ir.Graph, block: Block, bias: ir.Value, number: int) -> None:
    """Add `bias` `[B,1,N,N]` to the logits of one attention."""
    node = block.attention.node
    if node.op_type == "Attention":
        node.resize_inputs(4)
        node.replace_input_with(3, bias)
        return
    added = ir.node("Add", [node.inputs[0], bias], name=f"hidden{number}")
    added.outputs[0].name = f"hidden{number}"
    graph.insert_before(node, added)
    node.replace_input_with(0, added.outputs[0])


def biases(graph: ir.Graph, blocks: Sequence[Block], cuts: Sequence[int], dtype: ir.DataType) -> list[str]:
    """Hide tokens behind each cut, behind layers `cuts`, by a graph input of its own; returns their names."""
    names = []
    for number, layer in enumerate(cuts):
        bias = ir.Value(name=f"hidden_by_cut{number}", type=ir.TensorType(dtype))
        graph.inputs.append(bias)
        names.append(str(bias.name))
        end = cuts[number + 1] if number + 1 < len(cuts) else len(blocks) - 1
        for place in range(layer + 1, end + 1):
            hide(graph, blocks[place], bias, place)
    return names


def bias(rows: np.ndarray, length: int, dtype: np.dtype) -> np.ndarray:
    """`[B,1,N,N]`: 0 for the keys of `rows` `[B,S]`, HIDDEN for all others."""
    found = np.full((rows.shape[0], length), HIDDEN, dtype)
    np.put_along_axis(found, rows, 0, 1)
    return np.broadcast_to(found[:, None, None], (rows.shape[0], 1, length, length)).copy()
