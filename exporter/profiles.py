"""Shape ranges of every part's dynamic axes, for builders that want them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engines.registry import Profile
from exporter.parts.base import Port

Range = tuple[int, int, int]


@dataclass(frozen=True)
class Limits:
    """What the recipe allows; `tokens` is the number of rows one image takes in a prompt.

    `fixed` slots are in a cache that was cut alone, however short the prompt was: as many more fit in.
    """

    batch: int
    length: int
    tokens: int
    images: int
    fixed: int = 0

    @property
    def prompt(self) -> int:
        """A usual prompt: one image and forty words."""
        return min(self.length, self.tokens + 40)


def profiles(part: str, inputs: Iterable[Port], limits: Limits) -> list[Profile]:
    """One profile, or two for parts that read the prompt and single tokens: prompt first, then step.

    No profile has an empty past: a zero dimension crashes builders, so the first call passes one masked slot.
    """
    whole, usual = limits.length, limits.prompt
    cached = (1, usual, whole + limits.fixed)
    if part not in {"decoder", "decode"}:
        shortest = limits.images * limits.tokens + 1 if part.startswith("prefill") else 1
        return [_profile(inputs, limits, tokens=(shortest, max(shortest, usual), whole), past=cached)]
    room = _room(inputs, whole)
    prompt = _profile(inputs, limits, tokens=(1, min(usual, room), min(whole, room)), past=(1, 1, cached[2]))
    step = _profile(inputs, limits, tokens=(1, 1, 1), past=cached)
    return [prompt, step]


def _room(inputs: Iterable[Port], whole: int) -> int:
    """Most rows that one call may write: the slots of the smallest cache of constant length, where there is one."""
    slots = (port.shape[2] for port in inputs if port.name.startswith("past_key_values."))
    return min((size for size in slots if isinstance(size, int)), default=whole)


def _profile(inputs: Iterable[Port], limits: Limits, tokens: Range, past: Range) -> Profile:
    pictures = limits.batch * max(1, limits.images)
    rows = pictures * limits.tokens
    ranges: Mapping[str, Range] = {
        "rows": (1, limits.tokens, rows),
        "words": (1, 40, limits.length),
        "segments": (1, 1, 8),
        "batch": (1, 1, limits.batch),
        "tokens": tokens,
        "past": past,
        "slots": past,  # of states
    }
    return {port.name: _ranged(port, ranges) for port in inputs if any(isinstance(s, str) for s in port.shape)}


def _ranged(port: Port, ranges: Mapping[str, Range]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    low, usual, high = zip(*(_axis(size, ranges) for size in port.shape), strict=True)
    return low, usual, high


def _axis(size: int | str, ranges: Mapping[str, Range]) -> Range:
    """A static size, an axis, or a sum of both; `past.1` is a `past`."""
    if isinstance(size, int) or size.isdigit():
        return int(size), int(size), int(size)
    if "+" not in size:
        return ranges[size.split(".")[0]]
    parts = [_axis(part, ranges) for part in size.split("+")]
    return sum(p[0] for p in parts), sum(p[1] for p in parts), sum(p[2] for p in parts)
