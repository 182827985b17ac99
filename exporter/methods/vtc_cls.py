"""VTC-CLS: keep the patches that [CLS] attends to most, over several layers together."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import UserError
from exporter.budget import Budget
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import WITHOUT_CLS, attended, same_depth
from exporter.select import top_k


@dataclass(frozen=True)
class VtcCls(Reducer):
    """Rank patches by the sum of the [CLS] rows from layer `layer` to the one whose output the projector reads.

    `score[b,j] = sum_l mean_h softmax(q_cls k^T / sqrt(d))[l,b,h,j]`, the softmax over all tokens with [CLS] itself,
    fp32; the `keep` largest stay, in their original order, and are numbered anew. Budget: patches per view
    (picture, crop or frame).

    Attributes:
        layer: first of the summed layers, 0-based; a negative one counts from the tower's end. None: the authors'
            16 of CLIP-L's 24, in other towers the same share of their depth.

    Source: *[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs*, arXiv 2412.05819.
    """

    title = "VTC-CLS"
    paper = "[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs"
    arxiv = "2412.05819"
    differences = (
        "pictures come in batches and views; the authors' code takes one picture of 576 patches at a time",
        "the last summed layer is the one that the projector reads; the authors' is always the last but one",
        "sums are taken in fp32 and ties go to the lower index; the authors' code ranks in the tower's dtype",
        f"{WITHOUT_CLS} and those that attend to the whole view before it, summed",
    )

    layer: int | None = None

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used.

        Raises:
            UserError: no such layer in this tower, or the budget cannot be met.
        """
        if not 0 <= self.first(shape) <= shape.tower_last:
            raise UserError(
                f"--param layer={self.layer}: the projector reads layer {shape.tower_last} of this tower; "
                f"give a first layer from 0 to {shape.tower_last}, or {-shape.tower_layers} and up from the end"
            )
        return (Stage("tower", shape.tower_last, keep=budget.count(shape.patches)),)

    def first(self, shape: Shape) -> int:
        """The first summed layer, 0-based."""
        if self.layer is None:
            return same_depth(16, 24, shape)
        return self.layer + (shape.tower_layers if self.layer < 0 else 0)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The `keep` patches with the largest sum."""
        assert stage.keep is not None
        layers = range(self.first(taps.shape), stage.layer + 1)
        seeing = [layer for layer in layers if layer in (taps.shape.global_layers or layers)]
        rows = [attended(taps, layer) for layer in seeing or taps.shape.global_layers[-1:]]
        scores = sum(rows[1:], start=rows[0])
        return Selection(indices=top_k(scores, stage.keep), scores=scores)


METHOD = VtcCls
