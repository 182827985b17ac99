"""Fuse what the opset has one operator for: RMSNormalization, RotaryEmbedding."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import onnx_fusions

from graph_passes.base import PassResult


def run(model: ir.Model) -> PassResult:
    """Onnxscript's fusions for standard operators; `rewrites` counts the fused nodes that appeared."""
    before = _fused(model)
    onnx_fusions.fuse(model)
    return PassResult(_fused(model) - before)


def _fused(model: ir.Model) -> int:
    return sum(node.op_type in {"RMSNormalization", "RotaryEmbedding", "Attention"} for node in model.graph)
