"""Which rule an operator follows; through any other no rows pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from graph_passes.rows import rowwise, views
from graph_passes.rows.picks import Plan, Rows

Rule = Callable[[ir.Node, Rows], Plan]

ARITHMETIC = {"Abs", "Add", "Ceil", "Clip", "Div", "Floor", "Max", "Min", "Mod", "Mul", "Neg", "Round", "Sub", "Sum"}
FUNCTIONS = {"Cos", "Erf", "Exp", "Log", "Pow", "Reciprocal", "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh"}
ACTIVATIONS = {"Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu", "Swish"}
LOGIC = {"And", "Cast", "Equal", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Not", "Or", "Where"}
SUMS = {"ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
REDUCTIONS = {*SUMS, "ReduceMax", "ReduceMin", "ReduceProd"}

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ARITHMETIC | FUNCTIONS | ACTIVATIONS | LOGIC, rowwise.elementwise),
    **dict.fromkeys(REDUCTIONS, rowwise.reduction),
    "MatMul": rowwise.matmul,
    "Gemm": rowwise.gemm,
    "LayerNormalization": rowwise.norm,
    "RMSNormalization": rowwise.norm,
    "Softmax": rowwise.softmax,
    "LogSoftmax": rowwise.softmax,
    "Attention": rowwise.attention,
    "RotaryEmbedding": rowwise.rotary,
    "Transpose": views.transpose,
    "Unsqueeze": views.unsqueeze,
    "Squeeze": views.squeeze,
    "Reshape": views.reshape,
    "Expand": views.expand,
    "Slice": views.cut,
    "Gather": views.gather,
    "Concat": views.concat,
}
