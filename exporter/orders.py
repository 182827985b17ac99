"""Engines that are wanted, and what bundle.json says of them once they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engines.profiles import Limits
from engines.registry import BuildResult, Dtype, Profile, Target
from engines.settings import PLAIN, Settings
from exporter.cache import identity
from exporter.graph_choice import Graph
from exporter.refit import Refit

Bits = Literal["int8", "int4"]
Entry = dict[str, Any]
BY_PART = ("files", "graphs", "keys", "build_s", "bytes", "peak_mib", "batch", "fused_attention", "fusion", "layers")
OF_ALL = ("builder", "gpu")


@dataclass(frozen=True)
class Order:
    """What engines are for, their precision, the bits of their weights, and how or from what they are built."""

    target: Target
    dtype: Dtype
    weights: Bits | None = None
    settings: Settings = PLAIN
    refit: Refit | None = None

    @property
    def label(self) -> str:
        """What they are called in a bundle."""
        return self.target.label(self.weights)

    @property
    def folder(self) -> str:
        """Where in a bundle they lie."""
        return f"engines/{self.label}"

    def entry(self, builder: str, limits: Limits) -> Entry:
        """What bundle.json says of them before any part is there."""
        said = {key: value for key, value in self.settings.chosen().items() if key != "plugin"}
        return {
            "target": self.target.name,
            "options": list(self.target.options),
            "weights": self.weights,
            "dtype": self.dtype,
            "settings": said,
            "limits": asdict(limits),
            "builder": builder,
            "gpu": None,
            "plugin": None,
            **{key: {} for key in BY_PART},
        }


@dataclass(frozen=True)
class Work:
    """One part of an order.

    Attributes:
        part: its name.
        graph: what it is built from.
        shapes: its profiles.
        batch: the largest that they allow.
        key: all that the engine depends on.
    """

    part: str
    graph: Graph
    shapes: Sequence[Profile]
    batch: int
    key: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """The key as one word."""
        return identity("engine", self.key)


def note(entry: Entry, work: Work, told: Mapping[str, Any]) -> None:
    """Adds to a bundle's entry what is known of one part."""
    told = {**told, "graphs": work.graph.name, "keys": work.identity}
    for key in BY_PART:
        if told.get(key) is not None:
            entry[key][work.part] = told[key]
    entry |= {key: told[key] for key in OF_ALL if key in told}


def told(built: BuildResult, batch: int) -> dict[str, Any]:
    """What a builder found, as JSON."""
    cost = {"build_s": built.seconds, "bytes": built.bytes, "peak_mib": built.peak_mib}
    return {**cost, "batch": batch, **built.details}
