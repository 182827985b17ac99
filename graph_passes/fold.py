"""Fold constants and static shapes, remove what no one reads; weights stay where they are."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnxscript.optimizer import optimize_ir

from graph_passes.base import PassResult

DEDUPLICATION = logging.getLogger("onnx_ir.passes.common.initializer_deduplication")


def run(model: ir.Model) -> PassResult:
    """Onnxscript's constant folder and clean-up; what lies outside the file is out of its sight.

    A weight in a checkpoint's shard keeps its name and its place, and a 7B model is not read at all: for the duration,
    external initialisers are values that nothing is known of. `rewrites` is the number of nodes that went away.
    """
    before = len(model.graph)
    hidden = {
        v: v.const_value for v in model.graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)
    }
    for value in hidden:
        value.const_value = None
    level = DEDUPLICATION.level
    DEDUPLICATION.setLevel(logging.ERROR)  # it warns of every initialiser that it knows nothing of
    try:
        optimize_ir(model)
    finally:
        DEDUPLICATION.setLevel(level)
        for value, tensor in hidden.items():
            value.const_value = tensor
    return PassResult(before - len(model.graph))
