"""Fold constants and static shapes, remove what no one reads; weights stay where they are."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import optimize_ir

from graph_passes.base import PassResult


def run(model: ir.Model) -> PassResult:
    """Onnxscript's constant folder and clean-up, told to leave every node that reads external data alone.

    A weight in a checkpoint's shard must keep its name and its place there, and a 7B model must not be read at all.
    `rewrites` is the number of nodes that went away.
    """
    before = len(model.graph)
    RemoveUnusedNodesPass()(model)
    optimize_ir(model, should_fold=_should_fold)
    return PassResult(before - len(model.graph))


def _should_fold(node: ir.Node) -> bool | None:
    external = any(value is not None and isinstance(value.const_value, ir.ExternalTensor) for value in node.inputs)
    return False if external else None
