"""Vectors of MustDrop's vision stage: the rows of one picture behind [CLS].

What the vectors hold of the language model's filter (`llm_*`) is not read: that stage is not part of the method here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.mustdrop import MustDrop, similarity
from exporter.reducer import Grid, Selection, Shape, Stage
from exporter.select import marked, ranks
from exporter.sequence import Sequence, cut
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Similarities and the merged windows; the rows behind the cut with [CLS]; the form that keeps last patches."""
    inputs = (torch.from_numpy(case["features"]),)
    side, sides = round((len(case["features"]) - 1) ** 0.5), Grid(*case["window"].tolist())
    grid, size, merged = Grid(side, side), sides.rows * sides.cols, int(case["r"])
    retained, adaptive = int(case["retained_tokens"]), int(case["retained_tokens"]) < 0
    budget, threshold = Budget(str(max(1, retained))), float(case["threshold"]) if adaptive else None

    def play(rows: Tensor, *, merge: bool) -> tuple[Selection, Stage]:
        method = MustDrop(window=f"{sides.rows}x{sides.cols}", threshold=threshold, merge=merge)
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
