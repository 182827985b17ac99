"""Onnxscript's rewrite rules, each tried only on nodes of the operator that it can end in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common

# In the order in which onnxscript's own optimiser tries them. Left out is what needs layers that are in no transformer.
RULES: Mapping[str, tuple[Any, ...]] = {
    "Add": (common.add_0_rule,),
    "Sub": (common.sub_0_rule,),
    "Mul": (common.mul_by_1_rule,),
    "Div": (common.div_by_1_rule,),
    "Dropout": (common.dropout_zero_rule, common.dropout_inference_rule),
    "Cast": (
        common.cast_constant_of_shape_rule,
        common.cast_constant_of_shape_without_value_rule,
        common.cast_cast_rule,
        common.no_op_cast_rule,
    ),
    "Slice": (common.collapse_slice_rule, common.collapse_slice2_rule),
    "Reshape": (
        common.one_reshape_matmul_reshape_rule,
        common.two_reshapes_matmul_reshape_rule,
        common.materialize_reshape_shape_rule,
        common.reshape_reshape_rule,
        common.squeeze_reshape_1d_rule,
    ),
    "Min": (common.min_min_rule, common.max_min_rule),
    "Max": (common.max_max_rule, common.min_max_rule),
    "Clip": (common.successive_clip_relu_rule, common.successive_clip_rule),
    "Relu": (common.successive_relu_clip_rule, common.successive_relu_rule),
    "Expand": (common.no_op_expand_rule,),
    "Flatten": (common.flatten_to_reshape_rule,),
    "Transpose": (common.no_op_transpose_rule, common.transpose_transpose_rule),
    "Unsqueeze": (common.unsqueeze_unsqueeze_rule,),
    "ScatterND": (common.no_op_dynamic_scatter_nd_rule, common.no_op_static_scatter_nd_rule),
    "Conv": (
        common.normalize_pad_format_conv_rule,
        common.fuse_pad_into_conv_rule,
        common.remove_optional_bias_from_conv_rule,
    ),
    "BatchNormalization": (common.fuse_batchnorm_into_conv_rule, common.fuse_batchnorm_into_gemm_rule),
    "Gemm": (common.remove_optional_bias_from_gemm_rule,),
}


class _OfOperator:
    """A rule that does not even look at nodes of another operator: matching is what costs."""

    def __init__(self, operator: str, rule: Any) -> None:
        self.operator, self.rule = operator, rule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)

    def try_rewrite(self, model: ir.Model, graph: ir.Graph, node: ir.Node, **options: Any) -> Any:
        """What the rule puts in the place of `node`, or None."""
        return self.rule.try_rewrite(model, graph, node, **options) if node.op_type == self.operator else None


def rewrite(model: ir.Model) -> bool:
    """Apply every rule whose operator occurs; says whether one fired."""
    there = {node.op_type for node in model.graph.all_nodes()}
    rules = [_OfOperator(operator, rule) for operator, own in RULES.items() if operator in there for rule in own]
    return bool(rules) and bool(RewritePass(rules)(model).modified)
