"""What single operators may not do, whatever their types: each rule says why in a few words, or nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import convenience

from engines.trt.versions import Version

MOST_KEPT = 3840  # of TopK
MOST_AXES = 8
LEAST_SM = {"BFLOAT16": 80, "INT4": 80, "FLOAT8E4M3FN": 89, "FLOAT4E2M1": 100}  # measured: 80, 80, 89, 120
Rule = Callable[[ir.Node, Version], str]


def given(node: ir.Node, place: int) -> ir.Value | None:
    """An input, None where it was left out."""
    return node.inputs[place] if place < len(node.inputs) else None


def known(value: ir.Value | None) -> NDArray[Any] | None:
    """A small constant of the file; weights in other files are never read."""
    tensor = None if value is None or value.is_graph_input() else convenience.get_const_tensor(value)
    few = tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.size < 2**16
    return tensor.numpy() if tensor is not None and few else None


def _attention(node: ir.Node, _: Version) -> str:
    q, k, v, mask, *past = (given(node, place) for place in range(6))
    said = {key: attribute.value for key, attribute in node.attributes.items()}
    reasons = {
        "in fp32 there is no kernel for it: build in fp16 or bf16, or let it be written out": _is_fp32(q),
        "it has more than one output: recompute what is read": len([out for out in node.outputs if out.name]) > 1,
        "it has a past: concatenate before it": past != [None, None],
        "it has a soft cap: let it be written out": said.get("softcap", 0) != 0,
        "it sets the softmax's precision: let it be written out": "softmax_precision" in said,
        "it has a mask and is causal: put both into the mask": mask is not None and said.get("is_causal", 0) != 0,
        "queries, keys and values are one tensor, over which the builder dies": q is k is v,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _is_fp32(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _top_k(node: ir.Node, _: Version) -> str:
    count = known(given(node, 1))
    wanted = 0 if count is None else int(count.reshape(-1)[0])
    if wanted <= MOST_KEPT:
        return ""
    return f"K is {wanted}, and at most {MOST_KEPT} can be kept: lower --keep, or build with --plugin"


def _scatter(node: ir.Node, _: Version) -> str:
    found = node.attributes.get("reduction")
    return "" if found is None or found.as_string() == "none" else "it sums: multiply by a OneHot instead"


def _best(node: ir.Node, _: Version) -> str:
    value = node.inputs[0]
    flat = value is not None and value.shape is not None and len(value.shape) < 2
    return "it needs at least two dimensions: give it a batch" if flat else ""


def _loop(node: ir.Node, version: Version) -> str:
    body, carried = node.attributes["body"].as_graph(), len(node.inputs) - 2
    for before, after in zip(body.inputs[2:], body.outputs[1 : 1 + carried], strict=True):
        if None not in (sizes := [_sizes(before), _sizes(after)]) and sizes[0] != sizes[1]:
            return f"'{before.name}' changes its shape from trip to trip"
    collects = len(body.outputs) > 1 + carried
    counted = known(node.inputs[0]) is not None
    return "" if version.scans or counted or not collects else "the number of its trips must be a constant"


def _sizes(value: ir.Value) -> list[int | None] | None:
    return None if value.shape is None else [size if isinstance(size, int) else None for size in value.shape]


def _eye(node: ir.Node, _: Version) -> str:
    value = node.inputs[0]
    sizes = () if value is None or value.shape is None else value.shape
    named = any(isinstance(size, ir.SymbolicDim) and size.value for size in sizes)  # others may be known to TensorRT
    return "its sizes must be static" if named else ""


def _alone(node: ir.Node, _: Version) -> str:
    spare = len([out for out in node.outputs if out.name]) > 1
    return "only its first output exists there" if spare else ""


def _resize(node: ir.Node, _: Version) -> str:
    smooth = node.attributes.get("antialias")
    return "" if smooth is None or not smooth.as_int() else "it smooths (antialias): resize before the graph"


def _dequantize(node: ir.Node, _: Version) -> str:
    zero = known(given(node, 2))
    return "" if zero is None or not zero.astype(float).any() else "its zero point must be zero"


LIMITS: Mapping[str, Rule] = {
    "Attention": _attention,
    "TopK": _top_k,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "ArgMax": _best,
    "ArgMin": _best,
    "EyeLike": _eye,
    "Loop": _loop,
    "LayerNormalization": _alone,
    "Resize": _resize,
    "DequantizeLinear": _dequantize,
}
