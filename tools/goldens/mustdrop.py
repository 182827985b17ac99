"""Vectors of MustDrop: the rows of one picture behind [CLS]; the text's attention in a layer of the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.panes import similarity
from exporter.methods.mustdrop import MustDrop
from exporter.reducer import Grid, Selection, Shape, Stage
from exporter.select import ascending, marked, ranked, ranks
from exporter.sequence import Sequence, cut
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Similarities and the merged windows; rows behind the cut with [CLS]; the form of last patches; the decoder."""
    inputs = (torch.from_numpy(case["features"]),)
    side, sides = round((len(case["features"]) - 1) ** 0.5), Grid(*case["window"].tolist())
    grid, size, merged = Grid(side, side), sides.rows * sides.cols, int(case["r"])
    retained, adaptive = int(case["retained_tokens"]), int(case["retained_tokens"]) < 0
    budget, threshold = Budget(str(max(1, retained))), float(case["threshold"]) if adaptive else None

    def play(rows: Tensor, *, merge: bool) -> tuple[Selection, Stage]:
        method = MustDrop(window=f"{sides.rows}x{sides.cols}", threshold=threshold, merge=merge, stages="vision")
        shape = Shape(side * side, grid)
        (stage,) = method.plan(shape, budget)
        seen = {0: Seen({"out": rows[None]})}
        return method.select(EagerTaps((1,), side * side, len(rows), seen, shape), stage), stage

    def windows(rows: Tensor) -> Mapping[str, Tensor]:
        alike = similarity(rows[None, None, 1:], grid, sides)[0, 0]
        first = torch.arange(merged)[:, None] == ranks(alike)
        return {"similarity_map": alike, "merged_windows_by_score": first.to(torch.int64).argmax(-1)}

    def merging(rows: Tensor) -> Mapping[str, Tensor]:
        selection, stage = play(rows, merge=True)
        assert selection.mix is not None
        span = Sequence(rows[None], 1, side * side, torch.arange(side * side)[None, None])
        found = cut(span, stage, selection, renumber=True).hidden[0]
        members = (selection.mix[0, 0] > 0).to(torch.float32).sum(-1)
        wanted = len(case["features_out"])
        return {
            "features_out": found[:wanted],
            "token_size": torch.cat([torch.ones(1), members])[:wanted],
            "empty": members[wanted - 1 :],
        }

    def marking(rows: Tensor) -> Mapping[str, Tensor]:
        indices = play(rows, merge=False)[0].indices
        assert indices is not None
        kept = indices[0, 0]
        return {"index_mask": marked(torch.where(kept < 0, side * side, kept), side * side + 1)[:-1] > 0}

    yield Check("windows", windows, inputs, {n: case[n] for n in ("similarity_map", "merged_windows_by_score")})
    rows, left = {name: case[name] for name in ("features_out", "token_size")}, side * side - merged * (size - 1)
    slots = side * side if adaptive else left
    yield Check("merge", merging, inputs, rows | {"empty": torch.zeros(slots - left).numpy()})
    yield Check("mask", marking, inputs, {"index_mask": case["index_mask"]})
    if "llm_kept_visual" in case:
        yield from filters(case)


def filters(case: Arrays) -> Iterator[Check]:
    """What is kept by the thresholds, and, as the same count, by rank where they say anything; the key set in it."""
    start, keys = int(case["llm_vis_start"]), torch.from_numpy(case["llm_key_set"])
    thresholds = {name: float(case[f"llm_{name}"]) for name in ("global_thr", "individual_thr")}
    keep = len(case["llm_kept_visual"])

    def drop(rows: Tensor, mode: str, key: Tensor) -> tuple[Tensor, Tensor]:
        """1 for the tokens that are left, and their number."""
        heads, text, length = rows.shape
        seen = torch.zeros(1, heads, start + length + text, start + length + text)
        seen[0, :, start + length :, start : start + length] = rows
        shape, layers = Shape(length, Grid(1, length)), {2: Seen(attention=seen)}
        taps = EagerTaps((start,), length, start + length + text, layers, shape, {"key": key[None, None]})
        method = MustDrop(mode=mode, **thresholds)  # type: ignore[arg-type]
        found = method.select(taps, Stage("decoder", 2, keep=keep if mode == "fixed" else None))
        if mode == "exact":
            return found.carry["alive"][0, 0], found.outputs["tokens.2"][0]
        assert found.indices is not None
        return marked(found.indices, length)[0, 0], torch.tensor([found.indices.shape[2]])

    def kept(rows: Tensor, mode: str) -> Mapping[str, Tensor]:
        length = rows.shape[2]
        left, count = drop(rows, mode, marked(keys, length))
        order = ranks(left + marked(keys, length))  # those of the key set first
        among = left.cumsum(0).to(torch.int64) - 1
        places = torch.zeros(length, dtype=torch.int64).scatter(0, order, torch.arange(length))[: len(keys)]
        found = {"llm_kept_visual": ranked(left, keep), "llm_key_set_new": ascending(among[places]), "count": count}
        if mode == "exact":
            found["llm_important"] = ranked(drop(rows, mode, torch.zeros(length))[0], len(case["llm_important"]))
        return found

    wanted = {name: case[name] for name in ("llm_kept_visual", "llm_key_set_new")} | {"count": np.array([keep])}
    for mode in ("exact", "fixed") if min(thresholds.values()) else ("exact",):
        more = {"llm_important": case["llm_important"]} if mode == "exact" else {}
        inputs = (torch.from_numpy(case["llm_text_rows"]),)
        yield Check(f"decoder {mode}", partial(kept, mode=mode), inputs, wanted | more)
