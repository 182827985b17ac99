"""Attention written out as text, and built for TensorRT-RTX."""

import onnx

from engines.backends import trt_rtx
from engines.registry import BuildJob

HEADER = '<ir_version: 10, opset_import: ["" : 23]>\n'
EXPLICIT = """{{
    kt = Transpose<perm = [0, 1, 3, 2]>(k)
    s = MatMul(q, kt)
    {before}
    p = Softmax<axis = -1>({logits})
    {after}
    y = MatMul({weights}, v)
    {beside}
}}"""


def explicit(before="", logits="s", after="", weights="p", beside=""):
    """Products and softmax over q, k and v: the body of a graph."""
    return EXPLICIT.format(before=before, logits=logits, after=after, weights=weights, beside=beside)


def graph(body, *more, kind="float16", heads=4, width=32, outputs="", constants=""):
    """A graph that takes q, k, v [batch, heads, tokens, width] and hands out y."""
    shape = f"{kind}[B,{heads},S,{width}]"
    inputs = ", ".join([*(f"{shape} {name}" for name in "qkv"), *more])
    return f"g ({inputs}) => ({shape} y{outputs}) {constants} {body}"


def ranges(heads=4, width=32, batch=2, tokens=(16, 64, 256), **more):
    """The shapes of q, k, v, and of whatever else."""
    low, usual, high = ((count, heads, size, width) for count, size in zip((1, 1, batch), tokens, strict=True))
    return {**dict.fromkeys("qkv", (low, usual, high)), **more}


def built(folder, text, *profiles):
    """What became of a graph: the result of its build, the graph beside it."""
    path = folder / "part.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + text), path)
    return trt_rtx.build(BuildJob("vision", path, folder / "part.plan", folder / "log", profiles, ("sm89",)))
