"""Tensors that live from call to call: what bundle.json says of them, and their values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from engines.forms import LARGEST_ROWS, whole

DTYPES = {"float32": np.float32, "int64": np.int64, "int32": np.int32}
RESETS = {"request", "episode"}
READERS = {"prefill", "decode", "evict"}
NEXT = "next_state."

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StateSpec:
    """A tensor `state.NAME`: `shape` of one sequence, where a name is an axis that grows with the cache."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    initial: float
    reset: str

    def fresh(self, batch: int) -> NDArray[Any]:
        """Its values where an episode begins."""
        return np.full((batch, *map(int, self.shape)), self.initial, DTYPES[self.dtype])


def parse_states(raw: Sequence[Mapping[str, Any]], batch: int) -> tuple[StateSpec, ...]:
    """Takes the states out of bundle.json, for at most `batch` sequences.

    Raises:
        LookupError, TypeError, ValueError: An entry is missing or wrong.
    """
    specs = tuple(_spec(entry, batch) for entry in raw)
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError("states of one name")
    return specs


def _spec(raw: Mapping[str, Any], batch: int) -> StateSpec:
    shape = tuple(size if isinstance(size, str) else whole({"shape": size}, "shape", 0) for size in raw["shape"])
    spec = StateSpec(raw["name"], shape, raw["dtype"], raw["initial"], raw["reset"])
    known = spec.dtype in DTYPES and spec.reset in RESETS and set(raw["reads"]) <= READERS
    number = type(spec.initial) in {int, float} and math.isfinite(spec.initial)
    if not (known and number and isinstance(spec.name, str)):
        raise ValueError(f"state {dict(raw)}")
    if spec.reset == "episode" and any(isinstance(size, str) for size in shape):
        raise ValueError(f"state {spec.name} has no size as an episode begins")
    if batch * math.prod(size for size in shape if isinstance(size, int)) > LARGEST_ROWS:
        raise ValueError(f"state {spec.name} of {shape} numbers")
    return spec


@dataclass
class Live:
    """The values that one batch's next call gets: its request's own, and those of the episode that it is part of."""

    own: Tensors = field(default_factory=dict)
    episode: Tensors = field(default_factory=dict)

    def feeds(self) -> Tensors:
        """Inputs of any part."""
        return {f"state.{name}": values for name, values in (self.own | self.episode).items()}

    def take(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Keeps what a part returned; what it did not return stays."""
        for name, values in outputs.items():
            if name.startswith(NEXT):
                bare = name.removeprefix(NEXT)
                (self.episode if bare in self.episode else self.own)[bare] = values


@dataclass
class Episode:
    """Requests that one after the other act on the same tensors; `requests` of them are over."""

    specs: tuple[StateSpec, ...] = ()
    requests: int = 0
    tensors: Tensors = field(default_factory=dict)

    def joined(self, batch: int) -> Live:
        """What a new request of so many sequences begins with.

        Raises:
            UserError: The requests before it had another number of sequences.
        """
        fresh = {spec.name: spec.fresh(batch) for spec in self.specs if spec.reset == "episode"}
        before = {len(values) for values in self.tensors.values()} - {batch}
        if before:
            raise UserError(f"an episode of {min(before)} sequences cannot go on with {batch}: reset the session first")
        return Live(episode=self.tensors or fresh)

    def passed(self, live: Live) -> None:
        """One more request has been read; the tokens behind it change the same tensors."""
        self.requests, self.tensors = self.requests + 1, live.episode
