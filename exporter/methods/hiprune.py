"""HiPrune: anchors of a middle layer with their neighbours, the rest by a deep layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage, Taps
from exporter.scores import received, same_depth, scored_layer
from exporter.select import marked, ranked, ranks, top_k


@dataclass(frozen=True)
class HiPrune(Reducer):
    """Keep the most attended patches of the object layer, the four neighbours of each, then those of the deep layer.

    Scores are head means of attention received, over all queries (with [CLS]), fp32: `object` of layer
    `object_layer`, `deep` of the layer that the projector reads. Of K patches, `A = round(K * alpha / 5)` anchors have
    the largest `object`; with each go j-1, j+1, j-cols and j+cols, clamped to the list of patches and not to the row;
    the largest `deep` of the others fill up. What stays keeps its order and is numbered anew. Budget: patches per view.

    Attributes:
        alpha: share of the budget that anchors with their neighbours may take, 0 to 1.
        object_layer: 1-based. None: the authors' 9 of CLIP-L's 24 and 16 of Qwen2.5-VL's 32, elsewhere the same share.
        mode: `exact-budget` keeps K; `bit-faithful` also repeats what the authors' code does in towers without [CLS]:
            it subtracts 1 from scores whose mean is 1, may so pick a patch twice, and keeps fewer (blank slots follow).

    Source: *HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models*,
    arXiv 2508.00553.
    """

    title = "HiPrune"
    paper = "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models"
    arxiv = "2508.00553"
    differences = (
        "patches are gathered before the projector, which works row by row: same values",
        "every view has its own budget; the authors share one among a picture's crops, or all pictures of a prompt",
        "mode exact-budget keeps K patches where the authors' code for Qwen2.5-VL may pick one twice and keep fewer",
        "scores are fp32 and ties go to the lower index; the authors' code ranks in the tower's dtype",
        "towers without [CLS]: as the authors' code for Qwen2.5-VL, in other towers by analogy (ours)",
        "a layer that does not attend to the whole view gives way to the last one before it that does",
    )

    alpha: float = 0.1
    object_layer: int | None = None
    mode: str = "exact-budget"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} is not between 0 and 1")
        if self.mode not in {"exact-budget", "bit-faithful"}:
            raise ValueError(f"mode {self.mode} is neither exact-budget nor bit-faithful")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used.

        Raises:
            UserError: no such object layer, anchors with neighbours exceed the budget, or it cannot be met.
        """
        keep = budget.count(shape.patches)
        if not 0 <= self.layer(shape) <= shape.tower_last:
            raise UserError(f"--param object_layer={self.object_layer}: give one from 1 to {shape.tower_last + 1}")
        if 5 * self.anchors(keep) > keep:
            raise UserError(
                f"--param alpha={self.alpha}: {self.anchors(keep)} anchors with 4 neighbours each are more than "
                f"the {keep} patches to keep; give a smaller alpha"
            )
        return (Stage("tower", shape.tower_last, keep=keep, blanks=self.mode == "bit-faithful"),)

    def layer(self, shape: Shape) -> int:
        """The object layer, 0-based."""
        if self.object_layer is not None:
            return self.object_layer - 1
        of = (9, 24) if shape.has_cls else (16, 32)
        return max(1, same_depth(*of, shape)) - 1

    def anchors(self, keep: int) -> int:
        """How many anchors; halves round to even."""
        return round(keep * self.alpha / 5)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Anchors, buffers and registers together, in ascending order."""
        assert stage.keep is not None
        deep = received(taps, scored_layer(taps.shape, stage.layer))
        forced = torch.zeros_like(deep)
        if anchors := self.anchors(stage.keep):
            objects = received(taps, scored_layer(taps.shape, self.layer(taps.shape)))
            forced = marked(with_neighbours(ranked(objects, anchors), taps.shape.grid), deep.shape[-1])
        if self.mode == "exact-budget" or taps.shape.has_cls:
            scores = deep + 2 * forced  # no mean exceeds 1
            return Selection(indices=top_k(scores, stage.keep), scores=scores)
        sums = deep * taps.valid.sum(1)[:, None, None]
        return Selection(indices=_as_published(sums, forced, stage.keep))


def with_neighbours(anchors: Tensor, grid: Grid) -> Tensor:
    """`[...,A]` to `[...,5A]`: with each the patch before, behind, above and below it, clamped to the list."""
    steps = torch.tensor([0, -1, 1, -grid.cols, grid.cols])
    return (anchors[..., None] + steps).clamp(0, grid.rows * grid.cols - 1).flatten(-2)


def _as_published(deep: Tensor, forced: Tensor, keep: int) -> Tensor:
    """The `keep - |forced|` best of `deep - forced` join the forced; ascending, then -2 for each picked twice."""
    free = keep - forced.sum(-1, keepdim=True)
    kept = (forced > 0) | (ranks(deep - forced) < free)
    length = deep.shape[-1]
    place = torch.arange(length)
    first = ranked(torch.where(kept, 2 * length - place, -place), keep)
    return torch.where(torch.arange(keep) < kept.sum(-1, keepdim=True), first, -2)


METHOD = HiPrune
