"""Operators that our graphs may hold, and the types of their first operand that every TensorRT since 10.0 reads.

Source: the operator tables of the ONNX parser for 10.6, 10.8 and 10.15 (docs/operators.md of onnx/onnx-tensorrt). Clip
takes whole numbers although its row names floats: its importer (10.15) makes a Max and a Min of such a one.
"""

from collections.abc import Mapping

FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})
NUMBERS = FLOATS | {"INT32", "INT64"}
ANY = NUMBERS | {"BOOL"}
BOOL = frozenset({"BOOL"})
WEIGHTS = frozenset({"INT8", "INT4", "FLOAT8E4M3FN"})

_MOVES = """Cast Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If
    OneHot Reshape Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where"""
_COUNTS = """Abs Add ArgMax ArgMin Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Neg Pad Range
    ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu ScatterElements ScatterND
    Sign Sub Sum TopK"""
_FLOATS = """AveragePool Ceil Conv ConvTranspose Cos CumSum Einsum Elu Erf Exp Floor Gelu Gemm GlobalAveragePool
    GroupNormalization HardSwish InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax MatMul
    Mish PRelu Pow QuantizeLinear Reciprocal Resize Round Sigmoid Sin Softmax Softplus Sqrt Tan Tanh"""

TYPES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_MOVES.split(), ANY),
    **dict.fromkeys(_COUNTS.split(), NUMBERS),
    **dict.fromkeys(_FLOATS.split(), FLOATS),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), BOOL),
    "DequantizeLinear": WEIGHTS,
    "Loop": ANY | {""},
}

ATTENTION: Mapping[str, frozenset[str]] = {  # what opset 23 brought; 10.14 knows the first, 10.15 all
    "Attention": FLOATS,
    "RMSNormalization": FLOATS,
    "RotaryEmbedding": FLOATS,
}
IN_PLACE: Mapping[str, frozenset[str]] = {"TensorScatter": FLOATS | {"INT32"}}  # 10.15
FOUR_BITS: Mapping[str, frozenset[str]] = {"DequantizeLinear": WEIGHTS | {"FLOAT4E2M1"}}  # 10.8
