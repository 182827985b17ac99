"""Which methods fit a bare tower, and behind which layer they cut."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import UserError
from exporter.budget import Budget
from exporter.graft.blocks import Tower
from exporter.reducer import Grid, Reducer, Shape, Stage
from exporter.registry import method, method_names

OFFERED = frozenset({"cls"})  # of what a reducer may need


@dataclass(frozen=True)
class Plan:
    """Stages in the order in which they act, the geometry they were planned for, and why there."""

    stages: tuple[Stage, ...]
    shape: Shape
    why: str


def plan(tower: Tower, reducer: Reducer, name: str, budget: Budget, layer: int | None) -> Plan:
    """Where to cut: behind `layer`; by default early where layers follow to the end, else behind the last one.

    Raises:
        UserError: the method looks at what a bare tower does not have, or there is no such layer.
    """
    refused = unfit(reducer)
    if refused:
        raise UserError(f"--method {name} cannot be grafted: {refused}; these can: {', '.join(fitting())}")
    if "cls" in reducer.needs and not tower.has_cls:
        raise UserError(f"--method {name}: it reads [CLS], and this tower has none ({tower.front} rows in front)")
    last = len(tower.blocks) - 1
    if layer is not None:
        if not 0 <= layer <= last:
            raise UserError(f"--layer {layer}: this tower has layers 0 to {last}")
        return _planned(tower, reducer, name, budget, layer, "as --layer says")
    if tower.bare or not last:
        return _planned(tower, reducer, name, budget, last, "the method's own: the output is the last layer's")
    whole = _planned(tower, reducer, name, budget, last - 1, "the method's own schedule, up to the layer before last")
    if len(whole.stages) > 1:
        return whole
    early = max(0, round(len(tower.blocks) / 3) - 1)
    return _planned(tower, reducer, name, budget, early, "a third of the depth, as layers follow to the output")


def unfit(reducer: Reducer) -> str:
    """Why a method cannot act on a tower alone; empty if it can."""
    missing = sorted(reducer.needs - OFFERED)
    if missing:
        return f"it needs {', '.join(missing)}"
    if reducer.prompt or not reducer.pictures:
        return "it cuts prompts"
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32)
    try:
        stages = reducer.plan(shape, Budget("144"))
    except UserError:
        return "it needs more than one picture"
    return next(filter(None, map(_unfit, stages)), "") or ("" if stages else "it cuts nothing")


def fitting() -> list[str]:
    """Every method that can."""
    found = []
    for name in method_names():
        try:
            found += [name] * (not unfit(method(name)))
        except (UserError, ValueError):
            continue
    return found


def _unfit(stage: Stage) -> str:
    if stage.stack != "tower":
        return "it acts behind the projector" if stage.stack == "projected" else "it acts in the language model"
    if stage.at not in {"after", "mid"}:
        return f"it acts at '{stage.at}'"
    if stage.keep is None or stage.blanks:
        return "it leaves empty rows" if stage.blanks else "it only looks on"
    return ""


def _planned(tower: Tower, reducer: Reducer, name: str, budget: Budget, layer: int, why: str) -> Plan:
    """For a tower that, as far as the method sees, ends at the cut."""
    shape = Shape(
        tower.patches, tower.grid, tower_layers=layer + 1, tower_last=layer, has_cls=tower.has_cls, heads=tower.heads
    )
    stages = tuple(sorted(reducer.plan(shape, budget), key=lambda stage: (stage.layer, stage.at == "after")))
    if refused := next(filter(None, map(_unfit, stages)), ""):
        raise UserError(f"--method {name} cannot be grafted here: {refused}")
    if any(stage.at == "mid" and tower.blocks[stage.layer].mid is None for stage in stages):
        raise UserError(f"--method {name}: it acts between attention and MLP, which run side by side in this tower")
    return Plan(stages, shape, why)
