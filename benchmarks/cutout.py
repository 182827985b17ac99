"""The selection alone: the nodes of a pruned graph that a graph which selects by constants does not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

GATHERS = {"GatherElements", "GatherND"}  # rows are picked with these: what picks them is the selection
Key = int


@dataclass(frozen=True)
class Cutout:
    """A graph file of its own.

    Attributes:
        path: the selection's graph, beside the weights.
        whole: the graph that it was cut from, whose outputs now include `inputs`.
        inputs: values that the selection reads of the rest.
        nodes: how many there are.
    """

    path: Path
    whole: Path
    inputs: tuple[str, ...]
    nodes: int


def selecting(model: ir.Model, plain: Sequence[ir.Model]) -> list[int]:
    """Places of the nodes that none of `plain` computes: graphs that keep everything, or constant places.

    Two values are the same if the same operators made them of the same things, whatever picks rows among them. A node
    that multiplies by a weight which they multiply by is the model's own, wherever it stands.
    """
    known = {key for each in plain for key in _keys(each).values()}
    weights = {_weight(value) for each in plain for node in each.graph for value in node.inputs} - {None}
    keys = _keys(model)
    return [
        place
        for place, node in enumerate(model.graph)
        if not all(keys[value] in known for value in node.outputs) and weights.isdisjoint(map(_weight, node.inputs))
    ]


def cut(path: Path, places: Sequence[int], out: Path) -> Cutout:
    """Write the nodes at these places as a graph, and the whole with what they read as further outputs."""
    whole = onnx.load(path, load_external_data=False)
    types = _types(path)
    nodes = [whole.graph.node[place] for place in places]
    inside = {name for node in nodes for name in node.output}
    outside = [node for place, node in enumerate(whole.graph.node) if place not in set(places)]
    stored = {tensor.name: tensor for tensor in whole.graph.initializer}
    read = list(dict.fromkeys(name for node in nodes for name in _reads(node) if name and name not in inside))
    given = [name for name in read if name not in stored]
    asked = {name for node in outside for name in _reads(node)} | {value.name for value in whole.graph.output}
    made = [name for node in nodes for name in node.output if name in asked]
    graph = onnx.helper.make_graph(
        nodes,
        "selection",
        [_port(name, types) for name in given],
        [_port(name, types) for name in made],
        [stored[name] for name in read if name in stored],
    )
    alone = onnx.helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    onnx.save(alone, out)
    fed = {value.name for value in (*whole.graph.input, *whole.graph.output)}
    whole.graph.output.extend(_port(name, types) for name in given if name not in fed)
    onnx.save(whole, watched := out.with_suffix(".whole.onnx"))
    return Cutout(out, watched, tuple(given), len(nodes))


def _keys(model: ir.Model) -> dict[ir.Value, Key]:
    found: dict[ir.Value, Key] = {}

    def key(value: ir.Value | None) -> Key:
        if value is None:
            return 0
        if value not in found:
            found[value] = hash(("value", value.name if _large(value) else _content(value)))
        return found[value]

    for node in model.graph:
        bodies = any(isinstance(each.value, ir.Graph) for each in node.attributes.values())
        about = (
            node.name if bodies else tuple(sorted((name, str(each.value)) for name, each in node.attributes.items()))
        )
        reads = [key(value) for value in node.inputs]
        if node.op_type in GATHERS:
            reads[1:] = [hash("picked")]
        for number, value in enumerate(node.outputs):
            found[value] = hash((node.op_type, about, tuple(reads), number))
    return found


def _large(value: ir.Value) -> bool:
    """Inputs and weights are known by name."""
    return value.const_value is None or isinstance(value.const_value, ir.ExternalTensor)


def _content(value: ir.Value) -> bytes:
    assert value.const_value is not None
    return value.const_value.numpy().tobytes()


def _weight(value: ir.Value | None) -> str | None:
    """The name of a stored matrix, behind its casts and turns."""
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        return _weight(node.inputs[0]) if node.op_type in {"Cast", "Transpose"} else None
    stored = isinstance(value.const_value, ir.ExternalTensor) and len(value.const_value.shape) > 1
    return value.name if stored else None


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those of its bodies from outside included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            own = {value.name for value in (*attribute.g.input, *attribute.g.initializer)}
            own |= {name for inner in attribute.g.node for name in inner.output}
            yield from (name for inner in attribute.g.node for name in _reads(inner) if name not in own)
            yield from (value.name for value in attribute.g.output if value.name not in own)


def _types(path: Path) -> dict[str, int]:
    """Element types, of every value that the graph or inference knows."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    graph = inferred.graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}


def _port(name: str, types: dict[str, int]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, types[name], None)
