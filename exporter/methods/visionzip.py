"""VisionZip: the patches that [CLS] attends to most, and the others merged by their keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from engines.errors import UserError
from exporter.budget import Budget
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import WITHOUT_CLS, attended, scored_layer
from exporter.select import marked, top_k


@dataclass(frozen=True)
class VisionZip(Reducer):
    """Keep [CLS] with the patches of its largest attention, merge the others into evenly spaced targets.

    All of the layer that the projector reads, fp32. Dominant: [CLS] itself and the largest `mean_h` of its row, in
    their order. Contextual: every `max(1, R // contextual)`-th of the R other patches is a target; each of the rest
    joins the target with the most similar key (cosine of head means); `new = target + mean(joined)`, 0 for none. The
    rows are [CLS], dominant, contextual, numbered anew. Budget: all of them together, per view.

    Attributes:
        dominant: rows kept as they are, [CLS] included. None: what `contextual` leaves of the budget.
        contextual: merged rows. None: what `dominant` leaves of the budget, by default 10 of 64 of it.

    Source: *VisionZip: Longer is Better but Not Necessary in Vision Language Models*, arXiv 2412.04467.
    """

    title = "VisionZip"
    paper = "VisionZip: Longer is Better but Not Necessary in Vision Language Models"
    arxiv = "2412.04467"
    differences = (
        "scores are fp32 head means and ties go to the lower index; the authors' code sums heads in the tower's dtype",
        "views follow each other, each with all its rows; the authors sort LLaVA-NeXT's into the whole picture",
        f"{WITHOUT_CLS}; all dominant rows are patches",
    )

    dominant: int | None = None
    contextual: int | None = None

    def __post_init__(self) -> None:
        if self.dominant is not None and self.dominant < 1:
            raise ValueError(f"dominant {self.dominant} is less than 1")
        if self.contextual is not None and self.contextual < 0:
            raise ValueError(f"contextual {self.contextual} is less than 0")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used.

        Raises:
            UserError: the parameters do not add up to the budget, or it cannot be met.
        """
        keep = budget.count(shape.patches)
        contextual = self.contextual
        if contextual is None:
            contextual = round(keep * 10 / 64) if self.dominant is None else keep - self.dominant
        dominant = keep - contextual
        if dominant != (self.dominant or dominant) or contextual < 0 or dominant < 1:
            raise UserError(
                f"--keep {budget.text}: {keep} tokens are not dominant={self.dominant} and "
                f"contextual={self.contextual} together; give one of them, or what they add up to"
            )
        patches = dominant - shape.has_cls
        return (Stage("tower", shape.tower_last, keep=patches, extra=contextual, cls=shape.has_cls),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The dominant patches, and a matrix that merges the others."""
        assert stage.keep is not None
        layer = scored_layer(taps.shape, stage.layer)
        scores = attended(taps, layer)
        free, indices = torch.ones_like(scores), None
        if stage.keep:
            indices = top_k(scores, stage.keep)
            free = 1 - marked(indices, scores.shape[-1])
        mix = None
        if stage.extra:
            keys = taps.qkv(layer, rope=False).k.float().mean(1)  # [B,n,d]
            metric = taps.span_of(keys.transpose(1, 2)).transpose(2, 3)
            step = max(1, (scores.shape[-1] - stage.keep) // stage.extra)
            mix = merging(metric, free, step, stage.extra)
        return Selection(indices=indices, mix=mix, scores=scores)


def merging(metric: Tensor, free: Tensor, step: int, count: int) -> Tensor:
    """`[B,I,count,N]`: each target, plus the mean of those that join it.

    Args:
        metric: `[B,I,N,d]`, compared by cosine.
        free: `[B,I,N]`, 1.0 where a patch takes part; every `step`-th of these is a target.
        step: distance of targets.
        count: how many targets.
    """
    place = free.cumsum(-1) - 1
    wanted = torch.arange(count)[:, None] * float(step)
    targets = free[:, :, None] * (place[:, :, None] == wanted).float()  # [B,I,count,N]
    metric = normalize(metric, dim=-1)
    nearest = (metric @ (targets @ metric).transpose(2, 3)).argmax(-1)
    others = free - targets.sum(2)
    joins = (nearest[:, :, None] == torch.arange(count)[:, None]).float() * others[:, :, None]
    return targets + joins / joins.sum(-1, keepdim=True).clamp(min=1)


METHOD = VisionZip
