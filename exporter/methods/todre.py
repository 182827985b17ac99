"""ToDRE, stage 1: keep tokens that are diverse, starting from the one that [CLS] attends to most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.budget import Budget
from exporter.maths.greedy import diverse
from exporter.maths.similarity import cosines
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending

MODES = ("max-sum", "k-center")
INITS = ("cls", "far", "center")


@dataclass(frozen=True)
class ToDRE(Reducer):
    """Greedy diversification over projected tokens, before the language model sees them.

    From a pivot on, `max-sum` (the paper's second version) picks the token whose cosines to all picked ones have the
    smallest sum; `k-center` (the first version) the one whose largest cosine to any of them is smallest. Kept in the
    original order. The pivot, by `init`: `cls` the token that [CLS] attends to most in the tower's last layer (of
    several crops only the first, the whole picture, competes); `far` the lowest cosine to the mean of the unit rows,
    `center` the highest. Towers without [CLS] take `far` for `cls`. Budget: tokens of a picture, all its views
    together.

    Source: *ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance*, arXiv 2505.18757v2, section
    4.1.

    Attributes:
        mode: max-sum or k-center.
        init: cls, far or center.

    """

    title = "ToDRE, stage 1"
    paper = "ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance"
    arxiv = "2505.18757v2"
    differences = (
        "stage 1 only: visual tokens do not leave in a late layer of the decoder",
        "no code was published; chosen here: mean over heads, original order, lower index on ties",
        "the mean that far and center compare with is the mean of the unit rows",
        "towers without [CLS] start from the token farthest from the mean, where the paper draws one at random",
        "k-center starts from the same pivot as max-sum: the first version's rule could not be read",
        "[CLS] attention of the layer behind the one that the projector reads, in LLaVA the last",
    )

    mode: str = "max-sum"
    init: str = "cls"

    def __post_init__(self) -> None:
        for name, value, allowed in (("mode", self.mode, MODES), ("init", self.init, INITS)):
            if value not in allowed:
                raise ValueError(f"{name}={value}: choose from {', '.join(allowed)}")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look at [CLS] if the pivot needs one, then one cut behind the projector."""
        cut = Stage("projected", keep=budget.count(shape.tokens))
        return (Stage("tower", shape.tower_last), cut) if self._by_cls(shape) else (cut,)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """[CLS] attention for later, or the diverse tokens."""
        if stage.stack == "tower":
            last = min(stage.layer + 1, taps.shape.tower_layers - 1)
            return Selection(carry={"attention": taps.span_of(taps.rows(last, "cls"))[:, :, :, 0].mean(2)})
        assert stage.keep is not None
        rows, pivot = taps.hidden(-1), self._pivot(taps)
        alike = cosines(rows)
        picks = (
            diverse(-alike, pivot, stage.keep, "max-sum")
            if self.mode == "max-sum"
            else diverse(1 - alike, pivot, stage.keep, "max-min")
        )
        return Selection(indices=ascending(picks)[:, None])

    def _by_cls(self, shape: Shape) -> bool:
        return self.init == "cls" and shape.has_cls

    def _pivot(self, taps: Taps) -> Tensor:
        """`[B,V*N]` fp32, largest where the search starts."""
        shape = taps.shape
        if self._by_cls(shape):
            attention = taps.carry["attention"][:, 0].float()
            if shape.video or shape.views == 1:
                return attention
            return torch.where(torch.arange(shape.tokens) < shape.patches, attention, -1.0)
        unit = normalize(taps.hidden(-1).float(), dim=-1)
        closeness = (unit * normalize(unit.mean(1, keepdim=True), dim=-1)).sum(-1)
        return closeness if self.init == "center" else -closeness


METHOD = ToDRE
