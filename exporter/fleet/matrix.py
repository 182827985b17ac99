"""What there shall be: bundles, and the engines in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.registry import engine
from exporter.demo import DEMO
from exporter.recipe import Recipe


@dataclass(frozen=True)
class Goal:
    """An engine: a target as `--target` takes it, and the kind of GPU whose machine shall build it."""

    target: str
    kind: str | None = None

    @property
    def backend(self) -> str:
        """The target's name."""
        return self.target.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.target}@{self.kind}" if self.kind else self.target


@dataclass(frozen=True)
class Planned:
    """One bundle: its name, how it is exported, and what is built into it, told what."""

    name: str
    recipe: Recipe
    goals: tuple[Goal, ...]
    build: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """All that a file asks for; `gpus` has, by kind, the resource that finds a machine, and how much of it is taken."""

    bundles: tuple[Planned, ...]
    gpus: Mapping[str, tuple[str, float]]


def planned(model: str, method: str, keep: str | None, goals: tuple[Goal, ...], told: Mapping[str, Any]) -> Planned:
    """One bundle: graphs of all engines to come, and the engines that are graphs; the others are built into it."""
    graphs = tuple(goal.target for goal in goals if engine(goal.backend).extension == ".onnx")
    plans = tuple(goal for goal in goals if goal.target not in graphs)
    later = {goal.backend: told["build"].get("dtype") for goal in plans}
    params = {key: str(value) for key, value in told["params"].items()}
    export, build = dict(told["export"]), dict(told["build"])
    if "aux" in export:
        export["aux"] = {role: _place(path) for role, path in export["aux"].items()}
    if "plugin" in build:
        build["plugin"] = _place(build["plugin"])
    recipe = Recipe(_place(model), method, keep, params, graphs or ("ort-cpu",), later=later, **export)
    return Planned(recipe.name, recipe, plans, build)


def _place(text: str) -> str:
    """What is a path here, as a worker in another folder finds it; other names as they are."""
    path = Path(text).expanduser()
    return text if text.partition(":")[0] == DEMO or not path.exists() else str(path.absolute())
