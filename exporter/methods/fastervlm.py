"""FasterVLM: keep the patches that [CLS] attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.budget import Budget
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import WITHOUT_CLS, attended, scored_layer
from exporter.select import top_k


@dataclass(frozen=True)
class FasterVLM(Reducer):
    """Rank patches by the [CLS] row of the layer whose output the projector reads.

    `score[b,j] = mean_h softmax(q_cls k^T / sqrt(d))[b,h,j]`, the softmax over all tokens with [CLS] itself, fp32;
    the `keep` largest stay, in their original order, and are numbered anew. Budget: patches per view
    (picture, crop or frame).

    Source: *[CLS] Attention is All You Need for Training-Free Visual Token Pruning*, arXiv 2412.01818v1.

    """

    title = "FasterVLM"
    paper = "[CLS] Attention is All You Need for Training-Free Visual Token Pruning"
    arxiv = "2412.01818v1"
    differences = (
        "patches are gathered before the projector, which works row by row: same values, keep/patches of its cost",
        "the head mean is taken in fp32 and ties go to the lower index; the authors' code ranks in the tower's dtype",
        WITHOUT_CLS,
    )

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used."""
        return (Stage("tower", shape.tower_last, keep=budget.count(shape.patches)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The `keep` patches with the largest head mean of the [CLS] row."""
        scores = attended(taps, scored_layer(taps.shape, stage.layer))
        assert stage.keep is not None
        return Selection(indices=top_k(scores, stage.keep), scores=scores)


METHOD = FasterVLM
