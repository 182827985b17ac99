"""Every line once in every round, in rotated order, so that a slow moment hits all; medians and spread of ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STAGES = ("vision", "prefill", "first token")


@dataclass(frozen=True)
class Run:
    """One line, ready to be timed.

    Attributes:
        vision: pixels to (rows, kept places or None), in whatever the line computes with.
        prefill: what `vision` returned, to the logits [B,V] that follow the prompt.
        setup: seconds of what is done once, by name; never part of a time.
    """

    vision: Callable[[], tuple[Any, Any]]
    prefill: Callable[[tuple[Any, Any]], Any]
    setup: Mapping[str, float]


Rounds = dict[str, list[tuple[float, float]]]  # by line: seconds of vision and prefill in each round


def interleaved(lines: Mapping[str, Run], rounds: int, sync: Callable[[], None] = lambda: None) -> Rounds:
    """Time all lines; they must have run once before. `sync` waits for a device."""
    names, found = list(lines), {name: list[tuple[float, float]]() for name in lines}
    for number in range(rounds):
        turn = number % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            found[name].append(_once(lines[name], sync))
    return found


def _once(run: Run, sync: Callable[[], None]) -> tuple[float, float]:
    sync()
    start = time.perf_counter()
    seen = run.vision()
    sync()
    middle = time.perf_counter()
    run.prefill(seen)
    sync()
    return middle - start, time.perf_counter() - middle


def stages(times: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """Seconds of each stage, round by round; the first token takes both."""
    return dict(zip(STAGES, ([v for v, _ in times], [p for _, p in times], [v + p for v, p in times]), strict=True))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(slow: Sequence[tuple[float, float]], fast: Sequence[tuple[float, float]]) -> dict[str, dict[str, Any]]:
    """By stage: seconds of `slow` over those of `fast` in the same round, and the spread of that."""
    pairs = ((stage, a, stages(fast)[stage]) for stage, a in stages(slow).items())
    found = {stage: [x / y for x, y in zip(a, b, strict=True)] for stage, a, b in pairs}
    return {stage: {**spread(values), "rounds": values} for stage, values in found.items()}
