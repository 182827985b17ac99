"""Graphs of one operator each: what a rule lets pass, and what it refuses."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

QKV = "float16[B,4,S,32] q, float16[B,4,S,32] k, float16[B,4,S,32] v"
OUT = "float16[B,4,S,32] y"
LOOP = """g (float[B,8] x) => (float[B,8] y) <int64 n = {4}, bool t = {1}>
{ y = Loop <body = b (int64 i, bool c, float[B,8] s) => (bool d, float[B,WIDE] r)
  { d = Identity(t) r = BODY }> (n, , x) }"""


@dataclass(frozen=True)
class Toy:
    """A graph, and what the rule says of it in a few words; "" where it passes."""

    text: str
    says: str = ""
    opset: int = 23
    sm: int | None = None


def attention(attributes="", inputs="q, k, v", ports=QKV, outputs=OUT, made="y"):
    return f"g ({ports}) => ({outputs}) {{ {made} = Attention {attributes} ({inputs}) }}"


def top_k(count, kind="float", size=5000):
    ports = f"{kind}[1,{size}] x) => ({kind}[1,{count}] v, int64[1,{count}] i"
    return f"g ({ports}) <int64[1] k = {{{count}}}> {{ v, i = TopK(x, k) }}"


def scatter(kind, attributes=""):
    index = "int64[4,2] i, float[4,2] u" if kind == "ScatterElements" else "int64[2,1] i, float[2,8] u"
    return f"g (float[4,8] x, {index}) => (float[4,8] y) {{ y = {kind} {attributes} (x, i, u) }}"


def unary(kind, dtype="float", shape="B,8", out=None):
    return f"g ({dtype}[{shape}] x) => ({out or dtype}[{shape}] y) {{ y = {kind}(x) }}"


TOYS = {
    "attention": Toy(attention()),
    "attention-mask": Toy(attention(inputs="q, k, v, m", ports=f"{QKV}, bool[B,1,S,S] m")),
    "attention-causal": Toy(attention("<is_causal = 1>")),
    "attention-no-cap": Toy(attention("<softcap = 0.0>")),
    "attention-3d": Toy(attention("<q_num_heads = 4, kv_num_heads = 4>").replace("[B,4,S,32]", "[B,S,128]")),
    "attention-fp32": Toy(attention().replace("float16", "float"), "in fp32 there is no kernel"),
    "attention-mask-causal": Toy(
        attention("<is_causal = 1>", "q, k, v, m", f"{QKV}, bool[B,1,S,S] m"), "a mask and is causal"
    ),
    "attention-cap": Toy(attention("<softcap = 2.0>"), "soft cap"),
    "attention-precision": Toy(attention("<softmax_precision = 1>"), "the softmax's precision"),
    "attention-outputs": Toy(
        attention(outputs=f"{OUT}, float16[B,4,S,32] a, float16[B,4,S,32] b", made="y, a, b"), "more than one output"
    ),
    "attention-past": Toy(attention(inputs="q, k, v, , k, v"), "it has a past"),
    "attention-self": Toy(attention(inputs="q, q, q", ports="float16[B,4,S,32] q"), "are one tensor"),
    "norm": Toy("g (float16[B,8] x, float16[8] w) => (float16[B,8] y) { y = RMSNormalization(x, w) }"),
    "rotary": Toy(
        "g (float16[B,4,S,32] x, float16[B,S,16] c, float16[B,S,16] s) => (float16[B,4,S,32] y) "
        "{ y = RotaryEmbedding(x, c, s) }"
    ),
    "in-place": Toy(
        "g (float16[B,2,9,4] c, float16[B,2,1,4] u, int64[B] w) => (float16[B,2,9,4] y) "
        "{ y = TensorScatter <axis = 2> (c, u, w) }",
        opset=24,
    ),
    "top-3840": Toy(top_k(3840)),
    "top-3841": Toy(top_k(3841), "K is 3841"),
    "top-int64": Toy(top_k(8, "int64", 50)),
    "top-bool": Toy(top_k(8, "bool", 50), "not of type bool"),
    "nonzero": Toy("g (float[N] x) => (int64[1,M] y) { y = NonZero(x) }", "does not know it"),
    "compress": Toy("g (float[8] x, bool[8] c) => (float[M] y) { y = Compress <axis = 0> (x, c) }", "does not know it"),
    "unique": Toy("g (float[8] x) => (float[M] y) { y = Unique(x) }", "does not know it"),
    "det": Toy("g (float[B,2,2] x) => (float[B] y) { y = Det(x) }", "does not know it"),
    "scatter": Toy(scatter("ScatterElements", "<axis = 1>")),
    "scatter-none": Toy(scatter("ScatterElements", '<axis = 1, reduction = "none">')),
    "scatter-add": Toy(scatter("ScatterElements", '<axis = 1, reduction = "add">'), "it sums"),
    "scatter-nd": Toy(scatter("ScatterND")),
    "scatter-nd-add": Toy(scatter("ScatterND", '<reduction = "add">'), "it sums"),
    "cumsum": Toy("g (int64[B,8] x) => (int64[B,8] y) <int64 a = {1}> { y = CumSum(x, a) }"),
    "clip": Toy("g (int64[B,8] x) => (int64[B,8] y) <int64 a = {1}> { y = Clip(x, a) }"),
    "argmax-1d": Toy("g (float[8] x) => (int64[1] y) { y = ArgMax <axis = 0> (x) }", "at least two dimensions"),
    "argmax-2d": Toy("g (float[B,8] x) => (int64[B,1] y) { y = ArgMax <axis = 1> (x) }"),
    "sum-axes": Toy("g (float[B,8] x, int64[1] a) => (float[B,1] y) { y = ReduceSum(x, a) }", "must be a constant"),
    "unsqueeze": Toy("g (float[B,8] x, int64[1] a) => (float[B,8,1] y) { y = Unsqueeze(x, a) }", "must be a constant"),
    "underscore": Toy("g (float[B,8] x) => (float[B,8] y) { _ = Add(x, x) y = Mul(_, x) }", "called '_'"),
    "eye": Toy(unary("EyeLike", shape="4,8")),
    "eye-grows": Toy(unary("EyeLike", shape="B,8"), "its sizes must be static"),
    "rank-8": Toy(unary("Neg", shape="B,1,1,1,1,1,1,2")),
    "rank-9": Toy(unary("Neg", shape="B,1,1,1,1,1,1,1,2"), "more than 8 dimensions"),
    "resize": Toy(
        'g (float[1,3,8,8] x) => (float[1,3,4,4] y) <int64[4] s = {1,3,4,4}> { y = Resize <mode = "cubic"> (x, , , s) }'
    ),
    "resize-smooth": Toy(
        "g (float[1,3,8,8] x) => (float[1,3,4,4] y) <int64[4] s = {1,3,4,4}> "
        '{ y = Resize <mode = "linear", antialias = 1> (x, , , s) }',
        "antialias",
    ),
    "layer-norm-mean": Toy(
        "g (float[1,3,8] x, float[8] w) => (float[1,3,8] y, float[1,3,1] m) { y, m = LayerNormalization(x, w) }",
        "only its first output",
    ),
    "loop": Toy(LOOP.replace("BODY", "Add(s, s)").replace("WIDE", "8")),
    "loop-grows": Toy(LOOP.replace("BODY", "Concat <axis = 1> (s, s)").replace("WIDE", "16"), "changes its shape"),
    "bf16-75": Toy(attention().replace("float16", "bfloat16"), "bfloat16 needs a GPU from SM80", sm=75),
    "bf16-80": Toy(attention().replace("float16", "bfloat16"), sm=80),
    "int4-75": Toy("int4", "int4 needs a GPU from SM80", sm=75),
    "int4-80": Toy("int4", sm=80),
    "int8-75": Toy("int8", sm=75),
    "int8-zero": Toy("int8+1", "its zero point must be zero"),
    "uint4": Toy("uint4", "not of type uint4"),
    "fp8-86": Toy("fp8", "float8e4m3fn needs a GPU from SM89", sm=86),
    "fp8-89": Toy("fp8", sm=89),
    "fp4-89": Toy("fp4", "float4e2m1 needs a GPU from SM100", sm=89),
    "fp4-120": Toy("fp4", sm=120),
}  # fmt: skip
PACKED = {  # type, bits, block
    "int8": (TensorProto.INT8, 8, 128),
    "int4": (TensorProto.INT4, 4, 128),
    "uint4": (TensorProto.UINT4, 4, 128),
    "fp8": (TensorProto.FLOAT8E4M3FN, 8, 128),
    "fp4": (TensorProto.FLOAT4E2M1, 4, 16),
}


def save(toy, file):
    """The toy as an ONNX file."""
    onnx.save(_packed(*toy.text.split("+")) if toy.text.split("+")[0] in PACKED else _parsed(toy.text, toy.opset), file)


def _parsed(text, opset):
    return onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["" : {opset}]>\n{text}')


def _packed(name, zero="0"):
    """x times weights of few bits, with a zero point if it is not 0."""
    kind, bits, block = PACKED[name]
    model = _parsed("g (float16[B,256] x) => (float16[B,64] y) { y = Identity(x) }", 23)
    graph = model.graph
    del graph.node[:]
    graph.initializer.append(TensorProto(name="w", data_type=kind, dims=[256, 64], raw_data=b"\x11" * (32 * 64 * bits)))
    graph.initializer.append(numpy_helper.from_array(np.ones((256 // block, 64), np.float16), "s"))
    names = ["w", "s"]
    if zero != "0":
        graph.initializer.append(numpy_helper.from_array(np.full((256 // block, 64), int(zero), np.int8), "z"))
        names.append("z")
    graph.node.append(helper.make_node("DequantizeLinear", names, ["d"], axis=0, block_size=block))
    graph.node.append(helper.make_node("MatMul", ["x", "d"], ["y"]))
    return model
