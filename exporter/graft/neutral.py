"""Attention masks that mask nothing: exporters leave them behind, and they would hold the number of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

ALIKE = {"Expand", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Cast", "Transpose", "Tile", "Slice"}
LARGEST = 2**22  # elements of a constant that are compared


def drop(model: ir.Model) -> int:
    """Remove masks that are all true or all zero, and guards against rows without any key; says how many."""
    dropped = 0
    for node in list(model.graph):
        if node.op_type == "Attention" and len(node.inputs) > 3 and uniform(node.inputs[3]) in (True, 0.0):
            dropped += uniform(node.inputs[3]) is not None
            node.replace_input_with(3, None)
        elif node.op_type == "Add" and any(map(_after_softmax, node.outputs)):
            dropped += _drop_added(model, node)
        elif node.op_type == "Where" and _guards(node):
            _bypass(model, node, node.inputs[2])
            dropped += 1
    return dropped


def uniform(value: ir.Value | None) -> Any:
    """The one number that all elements are known to be, else None."""
    while value is not None:
        node = value.producer()
        if value.const_value is not None:
            return _only(value.const_value)
        if node is None:
            return None
        if node.op_type == "Constant":
            return _only(node.attributes["value"].as_tensor()) if "value" in node.attributes else None
        if node.op_type == "Where":
            chosen = uniform(node.inputs[0])
            if chosen is None:
                return None
            value = node.inputs[1] if chosen else node.inputs[2]
        elif node.op_type in ALIKE:
            value = node.inputs[0]
        else:
            return None
    return None


def _only(tensor: ir.TensorProtocol) -> Any:
    if isinstance(tensor, ir.ExternalTensor) or not 0 < tensor.size <= LARGEST:
        return None
    numbers = np.asarray(tensor.numpy()).reshape(-1)
    return numbers[0].item() if bool((numbers == numbers[0]).all()) else None


def _after_softmax(value: ir.Value) -> bool:
    return any(user.op_type == "Softmax" for user in value.consumers())


def _drop_added(model: ir.Model, node: ir.Node) -> int:
    for mask, logits in ((node.inputs[1], node.inputs[0]), (node.inputs[0], node.inputs[1])):
        found = uniform(mask)
        if found is not None and float(found) == 0:
            _bypass(model, node, logits)
            return 1
    return 0


def _guards(node: ir.Node) -> bool:
    """Where(IsNaN(x), 0, x) behind a softmax over rows that see something."""
    test, answer, weights = node.inputs
    asked = None if test is None else test.producer()
    if asked is None or asked.op_type != "IsNaN" or asked.inputs[0] is not weights or weights is None:
        return False
    made = weights.producer()
    return made is not None and made.op_type == "Softmax" and uniform(answer) == 0


def _bypass(model: ir.Model, node: ir.Node, source: ir.Value | None) -> None:
    assert source is not None
    if node.outputs[0] not in model.graph.outputs:
        convenience.replace_all_uses_with(node.outputs[0], source)
