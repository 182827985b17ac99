"""ToDRE: keep tokens that are diverse, from the one that [CLS] attends to most on; late in the decoder, keep none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.budget import Budget
from exporter.maths.greedy import diverse
from exporter.maths.similarity import cosines
from exporter.methods.todre_stage2 import ToDREStage2
from exporter.reducer import Positions, Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending

MODES = ("max-sum", "k-center")
INITS = ("cls", "far", "center")


@dataclass(frozen=True)
class ToDRE(Reducer):
    """Greedy diversification over projected tokens; behind 7 of 8 decoder layers, all tokens of pictures go.

    From a pivot on, `max-sum` (the paper's second version) picks the token whose cosines to all picked ones have the
    smallest sum; `k-center` (the first version) the one whose largest cosine to any of them is smallest. Kept in the
    original order. The pivot, by `init`: `cls` the token that [CLS] attends to most in the tower's last layer (of
    several crops only the first, the whole picture, competes); `far` the lowest cosine to the mean of the unit rows,
    `center` the highest. Towers without [CLS] take `far` for `cls`. The cut in the decoder and its outputs are those of
    `todre-stage2`. Budget: tokens of a picture that the decoder gets, all its views together.

    Source: *ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance*, arXiv 2505.18757v2, section
    4.

    Attributes:
        mode: max-sum or k-center.
        init: cls, far or center.
        stage2: whether all tokens go late in the decoder.
        drop: of stage 2, always or tau; see there.
        tau: of stage 2, the threshold.

    Raises:
        ValueError: an unknown choice, or a threshold that is not between 0 and 1.
        UserError: a decoder of one layer.

    """

    title = "ToDRE"
    paper = "ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance"
    arxiv = "2505.18757v2"
    site = "encoder + decoder"
    positions = "keep"
    unverified = True
    differences = (
        "no code was published; chosen here: mean over heads, original order, lower index on ties",
        "the mean that far and center compare with is the mean of the unit rows",
        "towers without [CLS] start from the token farthest from the mean, where the paper draws one at random",
        "k-center starts from the same pivot as max-sum: the first version's rule could not be read",
        "[CLS] attention of the layer behind the one that the projector reads, in LLaVA the last",
        *ToDREStage2.differences[:1],
        *(f"stage 2: {line}" for line in ToDREStage2.differences[1:]),
    )

    mode: str = "max-sum"
    init: str = "cls"
    stage2: bool = True
    drop: str = "always"
    tau: float = 0.1

    def __post_init__(self) -> None:
        for name, value, allowed in (("mode", self.mode, MODES), ("init", self.init, INITS)):
            if value not in allowed:
                raise ValueError(f"{name}={value}: choose from {', '.join(allowed)}")
        self._late()

    def _late(self) -> ToDREStage2:
        return ToDREStage2(self.drop, self.tau)

    @property
    def entry(self) -> Positions:
        """What reaches the decoder is numbered anew."""
        return "renumber"

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look at [CLS] if the pivot needs one, a cut behind the projector, the last one in the decoder."""
        keep = budget.count(shape.tokens)
        if self.stage2 and keep == shape.tokens:
            return ()
        looks = (Stage("tower", shape.tower_last),) if self._by_cls(shape) else ()
        late = (self._late().late(shape),) if self.stage2 else ()
        return (*looks, Stage("projected", keep=keep), *late)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """[CLS] attention for later, the diverse tokens, or none."""
        if stage.stack == "decoder":
            return self._late().select(taps, stage)
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
