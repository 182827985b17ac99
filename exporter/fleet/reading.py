"""The TOML file that says which bundles and engines there shall be."""

from __future__ import annotations

import pkgutil
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from engines.errors import UserError
from engines.registry import Dtype, engine, parse_target
from engines.settings import Settings
from exporter import methods
from exporter.fleet.matrix import Goal, Matrix, Planned, planned
from exporter.fleet.values import hints_of, table
from exporter.recipe import Recipe
from exporter.section import Section, shown

LISTS = {"models": tuple[str, ...], "methods": tuple[str, ...], "keeps": tuple[str | int | float, ...]}
TOP = {**LISTS, "targets": tuple[str, ...], **dict.fromkeys(("export", "build", "method", "gpus"), dict)}
METHOD = {"keeps": LISTS["keeps"], "params": Mapping[str, str | int | float], "export": dict, "build": dict}
# what an export and a build may be told is what their dataclasses hold
EXPORT = hints_of(Recipe, frozenset({"model", "method", "keep", "params", "targets", "dtype", "later"}))
BUILD = {"dtype": Dtype, "weights": Literal["int8", "int4"], "max_batch": int, "max_length": int, **hints_of(Settings)}
GPU = {"resource": str, "amount": float}


def read_matrix(path: Path) -> Matrix:
    """All combinations of models, methods and budgets that a file names.

    Raises:
        UserError: the file cannot be read, or something in it is wrong; the line names the place.
    """
    top = Section(path, "", _parsed(path))
    found = table(top, TOP)
    for key in ("models", "methods", "targets"):
        if not found.get(key):
            raise top.wrong(key, "is missing: give a list of at least one")
    goals = tuple(_goal(top, text) for text in found["targets"])
    bundles = tuple(_bundles(top, found, goals))
    if twice := [name for name, count in Counter(each.name for each in bundles).items() if count > 1]:
        raise UserError(f"{path}: two bundles would be called {twice[0]}: name each model, method and keep once")
    return Matrix(bundles, _gpus(top, goals))


def _bundles(top: Section, found: Mapping[str, Any], goals: tuple[Goal, ...]) -> Iterator[Planned]:
    """What a method says of itself goes before what the file says of all."""
    own, shared = _methods(top, found["methods"]), {"export": EXPORT, "build": BUILD}
    told = {key: _below(top, key, hints) for key, hints in shared.items()}
    for model, method in product(found["models"], found["methods"]):
        mine = own[method]
        more = {key: told[key] | mine.get(key, {}) for key in shared} | {"params": mine.get("params", {})}
        for keep in _keeps(top, method, mine.get("keeps", found.get("keeps", ()))):
            yield planned(model, method, keep, goals, more)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # of TOML and of UTF-8
        raise UserError(f"{path} is not TOML: {error}") from None


def _below(section: Section, key: str, hints: Mapping[str, Any]) -> dict[str, Any]:
    """A table of a table; empty where there is none."""
    name = f"{section.name}.{key}" if section.name else key
    return table(Section(section.path, name, section.get(key, {})), hints)


def _goal(top: Section, text: str) -> Goal:
    target, at, kind = text.partition("@")
    if at and not kind:
        raise top.wrong("targets", f"has {shown(text)}: behind the @ comes a kind of GPU, such as trt@l4")
    try:
        backend = engine(target.partition(":")[0])
        if not kind and backend.available() is None:
            parse_target(target)
    except UserError as error:
        raise top.wrong("targets", f"has {shown(text)}: {error}") from None
    if kind and backend.extension == ".onnx":
        raise top.wrong("targets", f"has {shown(text)}: graphs are the same for every GPU; leave {at}{kind} out")
    return Goal(target, kind or None)


def _methods(top: Section, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What the file says of each method, which must be one."""
    known = {module.name.replace("_", "-") for module in pkgutil.iter_modules(methods.__path__)}
    for name in names:
        if strangers := {each.partition(":")[0] for each in name.split("+")} - known:
            raise top.wrong("methods", f"has {shown(min(strangers))}, which is none (tp-export methods lists all)")
    said = Section(top.path, "method", top.get("method", {}))
    if strangers := said.values.keys() - set(names):
        raise said.wrong(min(strangers), "is not among the methods")
    found = {name: _below(said, name, METHOD) for name in names}
    for name, told in found.items():
        own = Section(top.path, f"method.{name}", told)
        told |= {key: _below(own, key, hints) for key, hints in (("export", EXPORT), ("build", BUILD)) if key in told}
    return found


def _keeps(top: Section, method: str, keeps: tuple[str | int | float, ...]) -> list[str | None]:
    """Budgets as `--keep` takes them; none for what names its own."""
    if method == "none" or "+" in method:
        return [None]
    if not keeps:
        raise top.wrong("keeps", f"is missing: {method} needs a budget, such as 64 or '11%'")
    return [str(keep) for keep in keeps]


def _gpus(top: Section, goals: tuple[Goal, ...]) -> dict[str, tuple[str, float]]:
    """Of every kind that a target or the file names; a kind is its own resource unless the file says another."""
    said = Section(top.path, "gpus", top.get("gpus", {}))
    kinds = [*said.values, *(goal.kind for goal in goals if goal.kind)]
    found = {kind: _below(said, kind, GPU) for kind in kinds}
    return {kind: (told.get("resource", kind), told.get("amount", 1.0)) for kind, told in found.items()}
