"""RMSNormalization as the arithmetic that it stands for."""

from __future__ import annotations

import onnx_ir as ir

from graph_passes.base import PassResult
from graph_passes.edit import dims, integer
from graph_passes.legalise.writer import Constants, Writer, decompose


def run(model: ir.Model) -> PassResult:
    """Decompose every `RMSNormalization`: `x / sqrt(mean(x^2) + epsilon) * scale`, the quotient in `stash_type`.

    Refused: a type or a rank that is not known.
    """
    constants = Constants(model.graph)
    return decompose(model, "RMSNormalization", _refusal, lambda node: _expand(model.graph, node, constants))


def _refusal(node: ir.Node) -> str:
    x, scale = node.inputs[:2]
    unknown = x is None or scale is None or x.dtype is None or x.shape is None or scale.dtype is None
    return "its type or its rank is not known" if unknown else ""


def _expand(graph: ir.Graph, node: ir.Node, constants: Constants) -> None:
    x, scale = node.inputs[:2]
    assert x is not None
    assert scale is not None
    write, epsilon, shape = Writer(node), node.attributes.get("epsilon"), dims(x) or []
    inside, axis = ir.DataType(integer(node, "stash_type", 1)), integer(node, "axis", -1)
    axes = range(axis - len(shape) if axis >= 0 else axis, 0)
    short = [*shape[: axes[0]], *(1 for _ in axes)]
    wide = write.cast(x, inside)
    square = write.op("Mul", [wide, wide], shape)
    mean = write.op("ReduceMean", [square, constants.of(list(axes))], short, keepdims=1)
    small = constants.of(1e-5 if epsilon is None else epsilon.as_float(), inside)
    root = write.op("Sqrt", [write.op("Add", [mean, small], short)], short)
    unit = write.cast(write.op("Div", [wide, root], shape), scale.dtype or inside)
    write.replace(graph, write.op("Mul", [unit, scale], shape))
