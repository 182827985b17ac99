"""A method's choice as a small graph of its own, put between two layers of somebody's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir
import torch
from onnx_ir import convenience
from torch import Tensor, nn

from engines.errors import UserError
from exporter.attention import Tape
from exporter.graft.blocks import Block, Tower
from exporter.reducer import Point, Reducer, Shape, Stage
from exporter.sequence import Sequence, cut
from exporter.taps import Record, RecordedTaps
from exporter.trace import quiet

EXAMPLE = 2  # pictures, while tracing


@dataclass(frozen=True)
class Site:
    """One stage in a graph: what it reads by name, what it cuts, and how many patches there were and are."""

    stage: Stage
    shape: Shape
    front: int
    patches: int
    stream: ir.Value
    reads: Mapping[str, ir.Value]  # LAYER.POINT or LAYER.q, .k, .v
    scales: Mapping[int, float]
    turned: frozenset[int]
    carried: Mapping[str, ir.Value] = field(default_factory=dict)  # origin and what the method carries

    @property
    def kept(self) -> int:
        """Patches behind it."""
        return (self.stage.keep or 0) + self.stage.extra


def site(tower: Tower, stage: Stage, shape: Shape, patches: int, since: int, carried: Mapping[str, ir.Value]) -> Site:
    """What a stage may look at: layers that ran since the last cut, which was in or behind layer `since`."""
    block = tower.blocks[stage.layer]
    stream = block.after if stage.at == "after" else block.mid
    assert stream is not None
    reads: dict[str, ir.Value] = {}
    seen = range(since, stage.layer + 1)
    for layer in seen:
        one = tower.blocks[layer]
        reads |= {
            f"{layer}.{name}": value for name, value in _seen(one, mid=layer == stage.layer and stage.at == "mid")
        }
    attentions = {layer: tower.blocks[layer].attention for layer in seen}
    return Site(
        stage,
        shape,
        tower.front,
        patches,
        stream,
        reads,
        {layer: each.scale for layer, each in attentions.items()},
        frozenset(layer for layer, each in attentions.items() if each.turned),
        carried,
    )


def _seen(block: Block, *, mid: bool) -> list[tuple[str, ir.Value]]:
    own = block.attention
    found = [("q", own.q), ("k", own.k), ("v", own.v), ("in", block.before)]
    found += [("mid", block.mid)] if block.mid is not None else []
    return found if mid else [*found, ("out", block.after)]


class Choice(nn.Module):
    """The stage in PyTorch: rows `[B,S,C]` and what it reads in; fewer rows, their places and what is carried out."""

    def __init__(self, reducer: Reducer, where: Site) -> None:
        super().__init__()
        self.reducer, self.site = reducer, where
        self.names = [*where.reads, *where.carried]
        self.made: list[str] = []
        self.scores: Tensor | None = None
        self.merges = False

    def forward(self, stream: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`[B,S',C]`, `rows [B,S']` and `origin [B,kept]` int64, then what is carried, `[B,kept]` each."""
        where = self.site
        given = dict(zip(self.names, tensors, strict=True))
        sequence = self._sequence(stream, given)
        taps = RecordedTaps(sequence, self._records(given), self._project, None, where.shape, sequence.carry)
        selection = self.reducer.select(taps, where.stage)
        if selection.key_bias is not None:
            raise UserError("it weighs merged rows in later attentions, which a graft leaves as they are")
        self.scores, self.merges = selection.scores, selection.mix is not None
        after = cut(sequence, replace(where.stage, cls=False), selection, renumber=False)
        assert after.rows is not None
        self.made = ["rows", "origin", *after.carry]
        return after.hidden, after.rows, after.origin[:, 0], *(values[:, 0] for values in after.carry.values())

    def _sequence(self, stream: Tensor, given: Mapping[str, Tensor]) -> Sequence:
        batch, length = stream.shape[:2]
        carry = {name: given[name][:, None] for name in self.site.carried if name != "origin"}
        own = torch.arange(self.site.patches).expand(batch, 1, -1)
        origin = given["origin"][:, None] if "origin" in given else own
        rows = torch.arange(length).expand(batch, -1)
        return Sequence(stream, self.site.front, self.site.patches, origin, carry=carry, rows=rows)

    def _records(self, given: Mapping[str, Tensor]) -> dict[int, Record]:
        found: dict[int, Record] = {}
        for layer, scale in self.site.scales.items():
            q, k, v = (given[f"{layer}.{name}"] for name in "qkv")
            k = k.transpose(2, 3) if layer in self.site.turned else k
            names: tuple[Point, ...] = ("in", "mid", "out")
            points = {name: given[f"{layer}.{name}"] for name in names if f"{layer}.{name}" in given}
            found[layer] = Record(points, Tape(q=q, k=k, v=v, scale=scale))
        self.tapes = {layer: record.tape for layer, record in found.items()}
        return found

    def _project(self, layer: int, rope: bool) -> Tape:  # noqa: FBT001 - the callback's own shape
        """What the graph shows; keys before a rotation are not told apart."""
        del rope
        if layer not in self.tapes:
            raise ValueError(f"layer {layer} is not there at the cut")
        return self.tapes[layer]


def trace(choice: Choice, name: str, opset: int) -> ir.Model:
    """The choice as a graph at the model's opset; its markers are not lowered yet.

    Raises:
        UserError: the method cannot act here.
    """
    where = choice.site
    values = [where.stream, *where.reads.values(), *where.carried.values()]
    example = tuple(_example(value) for value in values)
    open_batch = not isinstance(where.stream.shape[0], int)  # type: ignore[index]
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} if open_batch else None for _ in values)
    try:
        with quiet(), torch.no_grad():
            choice(*example)
            program = torch.export.export(
                choice, example, dynamic_shapes=(dynamic[0], dynamic[1:]) if open_batch else None, strict=False
            )
            exported = torch.onnx.export(program, (), dynamo=True, opset_version=opset, optimize=False, verbose=False)
    except (UserError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--method {name} cannot be grafted behind layer {where.stage.layer}: {reason}") from error
    assert exported is not None
    found: ir.Model = exported.model
    return found


def splice(graph: ir.Graph, choice: Choice, inner: ir.Model, label: str) -> dict[str, ir.Value]:
    """Put the traced choice behind the stream it cuts; who read that reads the cut now. Returns what it makes."""
    stream = choice.site.stream
    given = [stream, *choice.site.reads.values(), *choice.site.carried.values()]
    start = stream.producer()
    assert start is not None
    readers = list(stream.uses())
    nodes, made = _moved(graph, inner, given, label)
    graph.insert_after(start, nodes)
    for user, place in readers:
        user.replace_input_with(place, made[0])
    for place, value in enumerate(graph.outputs):
        if value is stream:
            made[0].name, stream.name = stream.name, f"{label}_uncut"
            graph.outputs[place] = made[0]
    assert stream.shape is not None
    batch, rows = stream.shape[0], choice.site.front + choice.site.kept
    made[0].shape, made[0].type = ir.Shape([batch, rows, stream.shape[2]]), stream.type
    made[1].shape = ir.Shape([batch, rows])
    for value in made[2:]:
        value.shape = ir.Shape([batch, choice.site.kept])
    return dict(zip(["stream", *choice.made], made, strict=True))


def _moved(graph: ir.Graph, inner: ir.Model, given: list[ir.Value], label: str) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes and outputs of a graph whose inputs are values of another, taken out of it under new names."""
    for own, value in zip(inner.graph.inputs, given, strict=True):
        convenience.replace_all_uses_with(own, value, replace_graph_outputs=True)
    for constant in list(inner.graph.initializers.values()):
        copy = ir.Value(
            name=f"{label}/{constant.name}", type=constant.type, shape=constant.shape, const_value=constant.const_value
        )
        convenience.replace_all_uses_with(constant, copy)
        graph.register_initializer(copy)
    for number, node in enumerate(inner.graph.all_nodes()):
        node.name = f"{label}/{node.op_type}_{number}"
        for place, value in enumerate(node.outputs):
            value.name = f"{node.name}_{place}"
    nodes, made = list(inner.graph), list(inner.graph.outputs)
    inner.graph.outputs.clear()
    inner.graph.remove(nodes)
    return nodes, made


def _example(value: ir.Value) -> Tensor:
    assert value.shape is not None
    sizes = [size if isinstance(size, int) else EXAMPLE for size in value.shape]
    dtype = {ir.DataType.FLOAT16: torch.float16, ir.DataType.INT64: torch.int64}.get(value.dtype, torch.float32)  # type: ignore[arg-type]
    return torch.zeros(sizes, dtype=dtype)
