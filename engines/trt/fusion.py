"""What became of a graph in a TensorRT plan: fused attention, fp32, copies and round trips to the host."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from engines.trt.attention import Attention, attention
from engines.trt.layers import Layer
from engines.trt.precision import PURPOSES, halved, judging, purposes

FUSED = re.compile(r"(\w*?mha_v\d+)")
HOST = {
    *("DeviceToShapeHost", "ShapeHostToDevice", "TrainStation", "shape_call"),  # shapes
    *("cast", "cjmp", "jmp", "reshape", "signal", "wait"),  # sizes and counters, loops, streams
}
COUNTERS = "hvar^"  # in the name of what the host counts with
COPIES = {"NoOp", "Reformat", "copy"}
MOVES = {"Cast", "Conc", "Move", "Padd", "Repl", "Resh", "Slic", "Tran"}  # as kernels spell what they do
KERNEL = re.compile(r"__myl_([A-Za-z]+)")
UNKNOWN = "the builder chose other kernels; nothing in the graph is known to ask for that"


def report(layers: Sequence[Layer], plan: Path, graph: Path) -> dict[str, Any]:
    """What a plan made of a graph, as JSON can hold it.

    Args:
        layers: the plan's layers.
        plan: the plan.
        graph: the ONNX graph; its weights are not read.

    Returns:
        "bytes" of the plan, "attention" layers of the graph (not the maps that a method makes in fp32 for scores),
        "dtype" ("16 bits" or "fp32"), and for each of "profiles": "layers" and "kernels" of the plan, "fused"
        (attention layers by kernel), "unfused" ("node" and "why"), "fp32" ("layer", "nodes" and "purpose"; "fell" is
        the builder's own choice), "copies" (kernels that only move data), "host_copies" (values that the host waits for
        in the middle of an inference).
    """
    model = typed(graph).graph
    found, wide, scores = attention(model), None, set[str]()
    if halved(model):
        wide, scores = purposes(model), judging(model)
    found = [each for each in found if each.node not in scores]
    numbers = sorted({layer.profile for layer in layers})
    return {
        "bytes": plan.stat().st_size,
        "attention": len(found),
        "dtype": "fp32" if wide is None else "16 bits",
        "profiles": [_profile([x for x in layers if x.profile == n], found, wide) for n in numbers],
    }


def typed(graph: Path) -> ir.Model:
    """A graph with the types of its values, without its weights."""
    model = ir.load(graph)
    if all(value.dtype is not None for node in model.graph for value in node.outputs):
        return model
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(graph, load_external_data=False)))


def _profile(layers: Sequence[Layer], found: Iterable[Attention], wide: Mapping[str, str] | None) -> dict[str, Any]:
    kernels = [layer for layer in layers if layer.type not in HOST and COUNTERS not in layer.name]
    fused = {node: name for layer in kernels if (name := _fused(layer)) for node in layer.nodes}
    return {
        "layers": len(layers),
        "kernels": len(kernels),
        "fused": dict(Counter(fused[each.node] for each in found if each.node in fused)),
        "unfused": [{"node": each.node, "why": each.why or UNKNOWN} for each in found if each.node not in fused],
        "fp32": [] if wide is None else _fp32(kernels, wide),
        "copies": sum(_moves(layer) for layer in kernels),
        "host_copies": [layer.name for layer in layers if layer.type == "DeviceToShapeHost"],
    }


def _fused(layer: Layer) -> str:
    match = FUSED.match(layer.name) or FUSED.match(layer.tactic)
    return match[1] if match else ""


def _fp32(kernels: Iterable[Layer], wide: Mapping[str, str]) -> list[dict[str, Any]]:
    """Layers that make or read fp32; not what only fills in a constant, nor what a kernel keeps in registers."""
    layers = [layer for layer in kernels if layer.inputs and _floats(layer)]
    found = [_purpose(wide[node] for node in layer.nodes if node in wide) for layer in layers]
    tensors: dict[str, str] = {}
    for _ in range(2):  # what a loop's first steps read was made by its last ones
        for at, layer in enumerate(layers):
            if not found[at]:  # such as steps of a loop: they belong to what they read and make
                found[at] = _purpose(tensors.get(name, "") for name in _floats(layer))
            for name in _floats(layer):
                tensors[name] = _purpose([tensors.get(name, ""), found[at]])
    return [
        {"layer": layer.name, "nodes": list(layer.nodes), "purpose": purpose or "fell"}
        for layer, purpose in zip(layers, found, strict=True)
    ]


def _floats(layer: Layer) -> list[str]:
    """What it reads and makes in fp32."""
    return [tensor.name for tensor in (*layer.inputs, *layer.outputs) if tensor.dtype == "fp32"]


def _purpose(purposes: Iterable[str]) -> str:
    """The first of several in the order of PURPOSES; empty if there is none."""
    found = set(purposes)
    return next((each for each in PURPOSES if each in found), "")


def _moves(layer: Layer) -> bool:
    """Whether a kernel computes nothing."""
    match = KERNEL.match(layer.name)
    steps = re.findall("[A-Z][a-z]*", match[1]) if match else []
    return layer.type in COPIES or bool(steps and set(steps) <= MOVES)
