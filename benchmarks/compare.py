"""All lines of a comparison made ready, checked against each other, timed, and set in proportion."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.flops import graph_flops
from benchmarks.machine import rss_mib
from benchmarks.timing import STAGES, Rounds, Run, interleaved, ratios, spread, stages
from benchmarks.work import SIDES, TEXT, Bench, Work, array
from engines.errors import UserError

OURS = ("ours-ort", "ours-ort-cuda")  # what other lines are compared with: the first that is there
Found = dict[str, Any]
Possible = Callable[[int], Mapping[str, float]]


def compared(
    bench: Bench, batches: Sequence[int], rounds: int, names: Sequence[str], possible: Possible | None = None
) -> Found:
    """Every batch: lines with their times, ratios of each round, and who could not take part.

    `possible` gives the most that each stage can gain at a batch; FLOPs of our published graphs unless given.
    """
    found: Found = {"lines": [], "ratios": [], "missing": {}, "flops": {}}
    for batch in batches:
        work = Work(bench, batch)
        ready, outputs, notes = _ready(work, names, found["missing"])
        count = rounds if batch == min(batches) else math.ceil(rounds / 2)  # larger ones take their time
        _say(f"batch {batch}: {len(ready)} lines, {count} rounds")
        times = interleaved(ready, count, bench.sync)
        if any(name.startswith("ours") for name in ready):
            found["flops"][str(batch)] = flops(bench, batch)
        most = possible(batch) if possible else _gains(found["flops"].get(str(batch)))
        agree = agreement(outputs)
        for name in ready:
            found["lines"].append({**_line(name, batch, times[name]), **notes[name], "agrees": agree.get(name)})
        found["ratios"] += list(_ratios(times, batch, most))
    found["seconds"] = {f"our export, {side}": s for (kind, side), s in _tuples(bench) if kind == "seconds"}
    return found


def _tuples(bench: Bench) -> Iterator[tuple[tuple[str, str], float]]:
    return ((key, value) for key, value in bench.kept.items() if isinstance(key, tuple))


def _ready(work: Work, names: Sequence[str], missing: dict[str, str]) -> tuple[dict[str, Run], Found, Found]:
    """Lines that can run, by "PEER SIDE", each run once; what they gave; what making them took."""
    runs, outputs, notes = dict[str, Run](), Found(), Found()
    for name in names:
        module = peers.peer(name)
        if reason := peers.missing(module):
            missing[name] = f"not run: {reason}"
        elif takes_part(module, work):
            for side in SIDES:
                before, start = rss_mib(), time.perf_counter()
                try:
                    run = module.ready(work, side)
                    seen = run.vision()
                    outputs[f"{name} {side}"] = (array(seen[1]), array(run.prefill(seen)))
                except UserError as error:
                    missing[name] = f"not run: {error}"
                    break
                runs[f"{name} {side}"] = run
                more = {"title": module.TITLE, "setup_s": dict(run.setup), "ready_s": time.perf_counter() - start}
                notes[f"{name} {side}"] = {**more, "rss_mib": rss_mib() - before}
                _say(f"{name}, {side}: ready after {more['ready_s']:.1f} s")
    return runs, outputs, notes


def takes_part(module: Any, work: Work) -> bool:
    """Whether a peer is for this batch and device."""
    fits = work.batch in getattr(module, "BATCHES", (work.batch,))
    return fits and work.bench.device in getattr(module, "DEVICES", ("cpu",))


def agreement(outputs: Mapping[str, tuple[Any, Any]]) -> dict[str, Found]:
    """Each line beside the first of its side: share of kept places and of most likely tokens that are equal."""
    found, first = dict[str, Found](), dict[str, Any]()
    for name, (kept, logits) in outputs.items():
        other_kept, other = first.setdefault(name.split()[-1], (kept, logits))
        same = {"argmax": float(np.mean(logits.argmax(-1) == other.argmax(-1)))}
        same["logits"] = float(np.abs(logits - other).max())
        if name.endswith("pruned") and kept is not None and other_kept is not None:
            same["kept"] = float(np.mean([np.isin(a, b).mean() for a, b in zip(kept, other_kept, strict=True)]))
        found[name] = same
    return found


def flops(bench: Bench, batch: int) -> dict[str, dict[str, float]]:
    """FLOPs of our published graphs by side and stage."""
    found = {}
    for side in SIDES:
        rows = bench.keep if side == "pruned" else _patches(bench)
        axes = {"batch": batch, "tokens": TEXT + rows, "past": 1, "rows": batch * rows}
        graphs = bench.graphs(side)
        vision, decoder = graph_flops(graphs["vision"], axes), graph_flops(graphs["decoder"], axes)
        found[side] = {"vision": vision, "prefill": decoder, "first token": vision + decoder}
    return found


def _patches(bench: Bench) -> int:
    vision = bench.config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)


def _line(name: str, batch: int, times: Sequence[tuple[float, float]]) -> Found:
    who, side = name.split()
    told = {stage: spread(values) for stage, values in stages(times).items()}
    return {"peer": who, "side": side, "batch": batch, "seconds": told, "rounds": [list(pair) for pair in times]}


def _gains(work: Mapping[str, Mapping[str, float]] | None) -> dict[str, float]:
    return {stage: work["dense"][stage] / work["pruned"][stage] for stage in STAGES} if work else {}


def _ratios(times: Rounds, batch: int, possible: Mapping[str, float]) -> Iterator[Found]:
    """Each peer's dense over its pruned, with the most that is possible; each peer's pruned over ours."""
    first = next((name for name in OURS if f"{name} pruned" in times), OURS[0])
    for who in dict.fromkeys(name.split()[0] for name in times):
        pair = [times.get(f"{who} {side}") for side in SIDES]
        if pair[0] and pair[1]:
            found = ratios(pair[0], pair[1])
            for stage in found.keys() & possible.keys() if who.startswith("ours") else ():
                found[stage]["possible"] = possible[stage]
                found[stage]["achieved"] = found[stage]["median"] / possible[stage]
            yield {"batch": batch, "slow": f"{who} dense", "fast": f"{who} pruned", "stages": found}
        ours = times.get(f"{first} pruned")
        if pair[1] and ours and who != first:
            found = ratios(pair[1], ours)
            yield {"batch": batch, "slow": f"{who} pruned", "fast": f"{first} pruned", "stages": found}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
