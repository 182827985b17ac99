"""Pruned against dense engines on this machine: paired in one run, reported as a ratio with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engines.session import Session
from engines.videos import Picture


@dataclass(frozen=True)
class Pair:
    """Seconds of both sides, round by round, and their ratio dense / pruned: median, least, most."""

    what: str
    dense_s: float
    pruned_s: float
    ratio: float
    least: float
    most: float


def paired(what: str, dense: Callable[[], object], pruned: Callable[[], object], rounds: int = 7) -> Pair:
    """Alternate both sides after one warm-up each, so that a slow moment hits both."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = (_seconds(dense), _seconds(pruned))
        if number:
            times.append(pair)
    ratios = sorted(d / p for d, p in times)
    medians = (statistics.median(d for d, _ in times), statistics.median(p for _, p in times))
    return Pair(what, *medians, statistics.median(ratios), ratios[0], ratios[-1])


def compare(dense: Session, pruned: Session, picture: Picture | None, ids: Sequence[int]) -> list[Pair]:
    """Vision part, prefill, and both together (time to the first logits), batch 1; prefill alone without a picture."""
    for session in (dense, pruned):
        session.reset(warmed=True)
    if picture is None:
        return [paired("prefill", lambda: dense.start([ids], [0], []), lambda: pruned.start([ids], [0], []))]
    seen = {id(s): s.see([picture], [ids]) for s in (dense, pruned)}

    def vision(session: Session) -> Callable[[], object]:
        return lambda: session.see([picture], [ids])

    def prefill(session: Session) -> Callable[[], object]:
        return lambda: session.start([ids], [1], seen[id(session)])

    def both(session: Session) -> Callable[[], object]:
        return lambda: session.start([ids], [1], session.see([picture], [ids]))

    stages = (("vision", vision), ("prefill", prefill), ("first token", both))
    return [paired(name, made(dense), made(pruned)) for name, made in stages]


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
