"""VisPruner: keep the patches that [CLS] attends to most, and of the others those that are no duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from exporter.budget import Budget
from exporter.maths.peel import peel
from exporter.maths.similarity import cosines
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import WITHOUT_CLS, attended, scored_layer
from exporter.select import ascending, gather_rows, ranked

STEP = 8  # patches that a round drops


@dataclass(frozen=True)
class VisPruner(Reducer):
    """Important patches by attention, then diverse ones by dropping near-duplicates.

    Of T = keep, `int(T * important_ratio)` are the patches with the largest head mean of the [CLS] row. The rest stand
    in a list by descending attention. Until T - important are left, every other one of the list, from the first on, is
    scored by its largest cosine to any of those between; the up to 8 highest scores go, the other scored ones move to
    the front of the list by descending score. Features and attention of the layer that the projector reads. Kept in
    the original order. Budget: patches per view (picture, crop or frame).

    Source: *Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs*,
    arXiv 2412.01818v2 (ICCV 2025).

    Attributes:
        important_ratio: share of the kept patches that attention chooses; 1 is FasterVLM.

    """

    title = "VisPruner"
    paper = "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs"
    arxiv = "2412.01818v2"
    differences = (
        "patches are gathered before the projector, which works row by row: same values, keep/patches of its cost",
        "of a list of odd length one more is scored than not, where the authors' code fails",
        "a round never drops more than it scored",
        "all cosines are computed once and looked up in each round; equal values",
        "ranking is fp32 with ties to the earlier in the list; the authors' code ranks in the tower's dtype",
        "a row of zeros has cosine 0 with every row, theirs NaN",
        "where the projector merges patches, a token's features and attention are the means of its patches'",
        WITHOUT_CLS,
    )

    important_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.important_ratio <= 1:
            raise ValueError(f"important_ratio={self.important_ratio}: give a number from 0 to 1")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used."""
        return (Stage("tower", shape.tower_last, keep=budget.count(shape.patches)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Important and diverse patches, in their original order."""
        assert stage.keep is not None
        scores = attended(taps, scored_layer(taps.shape, stage.layer))
        order = ranked(scores, taps.shape.patches)[:, 0]
        important = int(stage.keep * self.important_ratio)
        first, rest = order[:, :important], order[:, important:]
        rows = taps.span_of(taps.hidden(stage.layer).transpose(1, 2))[:, 0].transpose(1, 2)
        rows = gather_rows(rows, rest)
        left = torch.gather(rest, 1, peel(cosines(rows), stage.keep - important, STEP))
        return Selection(indices=ascending(torch.cat([first, left], 1))[:, None])


METHOD = VisPruner
