"""From somebody's model to the same model with fewer tokens: prepared, cut, optimised."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from engines.errors import UserError
from exporter.graft import blocks, neutral, sizes, source
from exporter.graft.blocks import Tower
from exporter.graft.narrow import narrow
from exporter.graft.selection import Choice, Site, site, splice, trace
from exporter.reducer import Reducer, Shape, Stage
from graph_passes import fold, lower_diverse, lower_select
from graph_passes.pipeline import optimise

KEPT = "kept_indices"


@dataclass(frozen=True)
class Prepared:
    """A model of settled shapes without idle masks, and the tower in it."""

    model: ir.Model
    tower: Tower

    def again(self) -> Prepared:
        """A copy, over the same weights."""
        copy = self.model.clone()
        return Prepared(copy, blocks.find(copy.graph))


@dataclass(frozen=True)
class Cut:
    """One stage in the graph: what it reads, and by name what it makes."""

    choice: Choice
    made: dict[str, ir.Value]

    @property
    def site(self) -> Site:
        """What it reads."""
        return self.choice.site


@dataclass(frozen=True)
class Grafted:
    """A model with its cuts; markers stand in it until it is finished."""

    prepared: Prepared
    cuts: tuple[Cut, ...]

    @property
    def model(self) -> ir.Model:
        """The graph."""
        return self.prepared.model


def prepare(path: Path) -> Prepared:
    """Read a model and find its tower.

    Raises:
        UserError: it cannot be read, or is no vision transformer.
    """
    model = source.read(path)
    with silent():
        fold.run(model)
        sizes.settle(model)
        fold.run(model)
        if neutral.drop(model):
            fold.run(model)
        sizes.settle(model)
    if KEPT in {value.name for value in model.graph.outputs}:
        raise UserError(f"{path}: it has an output {KEPT} already: it was pruned before")
    return Prepared(model, blocks.find(model.graph))


def put(prepared: Prepared, reducer: Reducer, name: str, stages: Sequence[Stage], shape: Shape) -> Grafted:
    """Cut a prepared model in place; `kept_indices` `[B,K]` becomes an output.

    Raises:
        UserError: the method cannot act here, or something behind a cut needs all tokens.
    """
    model, tower = prepared.model, prepared.tower
    opset = model.opset_imports[""]
    cuts: list[Cut] = []
    patches, since, carried = tower.patches, 0, dict[str, ir.Value]()
    for number, stage in enumerate(stages):
        where = site(tower, stage, shape, patches, since, carried)
        choice = Choice(reducer, where)
        made = splice(model.graph, choice, trace(choice, name, opset), f"cut{number}")
        cuts.append(Cut(choice, made))
        merged = bool(stage.extra) or choice.merges
        narrow(model.graph, made["stream"], patches, where.kept, None if merged else made["rows"])
        tower = _moved(tower, stage, made["stream"])
        patches, since = where.kept, stage.layer + 1
        carried = {key: value for key, value in made.items() if key not in {"stream", "rows"}}
    last = cuts[-1].made["origin"]
    last.name, last.dtype = KEPT, ir.DataType.INT64
    model.graph.outputs.append(last)
    return Grafted(replace(prepared, tower=tower), tuple(cuts))


def lower(model: ir.Model) -> None:
    """Standard operators alone; everything else as it was."""
    lower_diverse.run(model)
    lower_select.run(model)
    sizes.settle(model)


def finish(model: ir.Model) -> None:
    """All passes."""
    with silent():
        optimise(model)
        sizes.settle(model)


def _moved(tower: Tower, stage: Stage, stream: ir.Value) -> Tower:
    """The tower whose next layer reads the cut."""
    layers = list(tower.blocks)
    if stage.at == "mid":
        layers[stage.layer] = replace(layers[stage.layer], mid=stream)
    else:
        layers[stage.layer] = replace(layers[stage.layer], after=stream)
        if stage.layer + 1 < len(layers):
            layers[stage.layer + 1] = replace(layers[stage.layer + 1], before=stream)
    return replace(tower, blocks=tuple(layers))


@contextmanager
def silent() -> Iterator[None]:
    """Onnxscript warns of nodes that it leaves alone."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
