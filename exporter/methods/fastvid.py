"""FastVID: salient tokens of every frame, and dense ones of a few frames that the rest of their segment merges into."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.absorb import joining, merging, targets
from exporter.maths.frames import frames
from exporter.maths.segments import Anchors, anchors, dynamic, uniform
from exporter.maths.slots import packed
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import WITHOUT_CLS, attended, scored_layer
from exporter.select import marked, top_k


@dataclass(frozen=True)
class FastVID(Reducer):
    """Of R tokens a frame, `fc = int(R d)` go to the context of its segment, the others to what stands out in it.

    Salient: the `R - fc` tokens of the largest attention, unchanged. Context: anchors are every p-th frame from a
    segment's end; in them the tokens of the largest `delta rho` (`density.peaks`, 4 neighbours) among those
    not salient are targets, fc for every frame of the segment. Every token of the segment that is not salient joins the
    target of the largest cosine in each anchor (an anchor of fc targets takes in its own frame alone), and
    `new = w target + (1 - w) mean(joined)`, itself included, with `w = max(1 / (joined + 1), alpha)`; fp32. Rows stand
    in the order of time and place, a target where it was. Budget: tokens of the whole video, R = keep // F.

    Attributes:
        mode: "uniform": segments of p frames (the last one maybe less), so that the count is exact. "exact": a cut
            where neighbouring frames are less alike than dyseg_tau, and at the dyseg_c - 1 least alike ones; quotas
            may round down, so the last slots may be empty.
        retention_ratio: R = int(L retention_ratio) instead of what --keep says; the authors' default is 0.1.
        dyseg_c, dyseg_tau: segments at least, and the cosine below which there is a cut.
        stprune_d: d, the share of context.
        dtm_p: p, the distance of anchors.
        dtm_alpha: alpha, the least weight of a target itself.

    Raises:
        ValueError: an unknown mode or a parameter out of its range.
        UserError: less than one token a frame, or fewer frames than segments.

    Source: *FastVID: Dynamic Density Pruning for Fast Video Large Language Models*, arXiv 2503.11187.

    """

    title = "FastVID"
    paper = "FastVID: Dynamic Density Pruning for Fast Video Large Language Models"
    arxiv = "2503.11187"
    positions = "keep"
    needs = frozenset({"video"})
    differences = (
        "by default segments have a fixed length; mode=exact cuts as the paper does",
        "attention is the [CLS] row of the layer that the projector reads; the authors run SigLIP's pooling head",
        WITHOUT_CLS,
        "frames are told apart by the mean of their projected tokens (ours), not by the pooling head's output",
        "no random noise on densities; ties go to the lower index",
        "where an anchor has no room for its segment's context, all frames give some of theirs to salient tokens",
    )

    mode: str = "uniform"
    retention_ratio: float | None = None
    dyseg_c: int = 8
    dyseg_tau: float = 0.9
    stprune_d: float = 0.4
    dtm_p: int = 4
    dtm_alpha: float = 0.6

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.mode not in {"uniform", "exact"}:
            raise ValueError(f"mode is uniform or exact, not {self.mode}")
        if self.dyseg_c < 1 or self.dtm_p < 1:
            raise ValueError(f"dyseg_c {self.dyseg_c} and dtm_p {self.dtm_p} are 1 or more")
        for name in ("retention_ratio", "stprune_d", "dtm_alpha"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, float | int) and 0 <= value <= 1):
                raise ValueError(f"{name} is a share from 0 to 1, not {value}")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look at the tower's attention, then one cut of the whole video."""
        ratio = self.retention_ratio
        each = budget.count(shape.tokens) // shape.views if ratio is None else int(shape.patches * ratio)
        if each < 1:
            raise UserError(f"--method fastvid: keeps one token a frame or more: give --keep {shape.views} or more")
        exact = self.mode == "exact"
        if exact and shape.views < self.dyseg_c:
            raise UserError(
                f"--method fastvid: {shape.views} frames are fewer than {self.dyseg_c} segments; give --param dyseg_c="
            )
        return (Stage("tower", shape.tower_last), Stage("projected", keep=shape.views * each, blanks=exact))

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Attention, carried from the tower; behind the projector the rows and what merges into them."""
        if stage.stack == "tower":
            return Selection(carry={"attention": attended(taps, scored_layer(taps.shape, stage.layer))})
        assert stage.keep is not None
        video, patches = frames(taps), taps.shape.patches
        attention = taps.carry["attention"].reshape(video.shape[:3])
        context, salient = self.shares(stage.keep // taps.shape.views, patches)
        stands_out = marked(top_k(attention, salient), patches) if salient else torch.zeros_like(attention)
        if not context:
            return Selection(indices=packed(stands_out.flatten(1)[:, None] > 0, stage.keep))
        where, free = self.anchors(taps, context), 1 - stands_out.flatten(1)
        most = min(context * min(self.dtm_p, taps.shape.views), patches - salient)
        into = targets(video, top_k(1 - stands_out, patches - salient), where, most)
        merged = marked(into.flatten(1) + 1, taps.shape.tokens + 1)[:, 1:]
        kept = packed((merged + 1 - free) > 0, stage.keep)
        mix = merging(kept, into.flatten(1), joining(video, into, where.reach, free), self.dtm_alpha)
        return Selection(indices=kept[:, None], mix=mix[:, None], mix_rows=tuple(range(stage.keep)))

    def shares(self, each: int, patches: int) -> tuple[int, int]:
        """Of `each` tokens a frame: those of context, whose targets must find room in an anchor, and salient ones."""
        context = int(each * self.stprune_d)
        if self.dtm_p > 1:
            context = min(context, (patches - each) // (self.dtm_p - 1))
        return context, each - context

    def anchors(self, taps: Taps, context: int) -> Anchors:
        """The frames whose tokens others merge into."""
        views, period = taps.shape.views, self.dtm_p
        if self.mode == "uniform":
            last = [min(first + period, views) - 1 for first in range(0, views, period)]
            return anchors(uniform(views, period), last, period, context)
        together = dynamic(self.features(taps), self.dyseg_c, self.dyseg_tau)
        return anchors(together, list(range(views)), period, context)

    def features(self, taps: Taps) -> Tensor:
        """`[B,F,C]`: what tells frames apart."""
        return frames(taps).mean(2)


METHOD = FastVID
