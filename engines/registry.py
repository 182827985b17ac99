"""Targets by name: what a backend offers, what it is asked to build, and how the user's words find it."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from numpy.typing import NDArray

import engines.backends
from engines.errors import UserError
from engines.settings import PLAIN, Settings

Dtype = Literal["fp32", "fp16", "bf16"]
Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[Arrays], dict[str, NDArray[Any]]]
Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]  # input name -> (min, opt, max) shape


@dataclass(frozen=True)
class BuildJob:
    """One part to build.

    Attributes:
        part: "vision", "embed", "decoder" …; named in errors.
        onnx: the graph, with its external data beside it.
        out: where the engine file goes; a backend that needs none leaves it alone.
        log: receives all that the builder prints.
        profiles: shape ranges, each over every dynamic input.
        options: what followed the target's colon.
        light: what is not compared may be too large for this machine: backends that build nothing read the graph, but
            not its weights.
        settings: what else a TensorRT builder is told.
        tell: takes progress in words, such as "vision: 3 of 12, tactics 40 %".
    """

    part: str
    onnx: Path
    out: Path
    log: Path
    profiles: Sequence[Profile] = ()
    options: tuple[str, ...] = ()
    light: bool = False
    settings: Settings = PLAIN
    tell: Callable[[str], None] | None = None


@dataclass(frozen=True)
class BuildResult:
    """What a build cost and left: file is the engine, details are the backend's own (JSON-able) findings."""

    file: Path
    seconds: float
    bytes: int
    peak_mib: int
    details: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """What each module of `engines.backends` offers; its heavy imports happen inside these functions.

    A module may have more: `legal(dtype)`, see `rewrites`; `settings`, the names of those Settings that its builder
    honours; `fits(entry)`, which raises UserError where the engines of a bundle's entry cannot run on this machine;
    `at_hand()`, the options that a target without any stands for, such as ("sm90",).

    Attributes:
        name: what a user calls the target.
        extension: suffix of its engine files.
        install: the command that brings what `available` misses.
    """

    name: str
    extension: str
    install: str

    def available(self) -> str | None:
        """None if engines can be built here, else one line: why not."""

    def version(self) -> str:
        """The builder's version: engines are made anew when it changes. Only if available."""

    def dtype(self, checkpoint: Dtype) -> Dtype:
        """The precision that this target's graphs should have, given the checkpoint's."""

    def check(self, options: tuple[str, ...]) -> None:
        """Raises UserError for an option that the target does not know."""

    def build(self, job: BuildJob) -> BuildResult:
        """Builds one part in a child process; UserError if that fails."""

    def load(self, path: Path, *, low: bool = False) -> Runner:
        """The engine as a function over named arrays; UserError if it cannot run here.

        `low` leaves its weights on the disk and reads them at every run.
        """


@dataclass(frozen=True)
class Target:
    """What to build for: a backend's name and its options, such as ("sm86", "sm89")."""

    name: str
    options: tuple[str, ...] = ()

    def label(self, weights: str | None = None) -> str:
        """What its engines are called in a bundle: `trt-rtx-sm86-sm89`, with weights of 4 bits `trt-rtx-int4`."""
        return "-".join([self.name, *self.options, *([weights] if weights else [])])


def names() -> list[str]:
    """Every target there is a backend for, sorted."""
    found = pkgutil.iter_modules(engines.backends.__path__)
    return sorted(module.name.replace("_", "-") for module in found)


def engine(name: str) -> Engine:
    """The backend of that name; UserError lists the names if there is none."""
    if name not in names():
        raise UserError(f"unknown target '{name}': choose from {', '.join(names())}, or auto")
    module = importlib.import_module(f"engines.backends.{name.replace('-', '_')}")
    return cast("Engine", module)


def rewrites(name: str, dtype: Dtype, *, loops: bool) -> tuple[str, ...]:
    """Passes that a target's graphs need, of which some have loops: what its backend's `legal` names, if it has one."""
    legal = getattr(engine(name), "legal", None)
    return tuple(legal(dtype, loops=loops)) if legal else ()


def parse_target(text: str) -> Target:
    """'trt-rtx:sm86,sm89' as a Target; UserError for an unknown name or option."""
    name, colon, rest = text.strip().partition(":")
    options = tuple(word.strip().lower() for word in rest.split(",")) if colon else ()
    engine(name).check(options)
    return Target(name, tuple(sorted(options, key=lambda option: (len(option), option))))


def parse_targets(texts: Sequence[str]) -> list[Target]:
    """Targets that can be built here, in the order given.

    Args:
        texts: as the user wrote them; "auto" stands for all that are available.

    Raises:
        UserError: an unknown target or option, one that is not available here, or one named twice.
    """
    targets: list[Target] = []
    for text in texts:
        targets += available_targets() if text.strip() == "auto" else [_usable(parse_target(text))]
    labels = [target.label() for target in targets]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"target named twice: {', '.join(twice)}; once is enough")
    return targets


def available_targets() -> list[Target]:
    """Every target that can be built here, with default options."""
    return [_at_hand(Target(name)) for name in names() if engine(name).available() is None]


def _usable(target: Target) -> Target:
    backend = engine(target.name)
    reason = backend.available()
    if reason:
        raise UserError(f"target {target.name} is not available: {reason}; {backend.install}")
    return _at_hand(target)


def _at_hand(target: Target) -> Target:
    """A target without options, with those that it stands for on this machine."""
    found: tuple[str, ...] = target.options or getattr(engine(target.name), "at_hand", tuple)()
    return Target(target.name, found)
