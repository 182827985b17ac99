"""CATP, stage 1: keep tokens that stand for the whole picture and agree with the text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.nn.functional import normalize

from exporter.budget import Budget
from exporter.maths.greedy import diverse
from exporter.maths.similarity import cosines, mean_text
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending


@dataclass(frozen=True)
class CATP(Reducer):
    """Greedy maximisation of facility location plus text alignment over projected tokens, one picture by itself.

    With `sim = (1 + cos) / 2` and v the mean of the text's input embeddings, the kept set Y grows to make
    `F(Y) = sum_x max_{y in Y} sim(y,x) + lambda1 * sum_{y in Y} sim(y,v)` large: each step takes the token c that gains
    most, `sum_x max(0, sim(c,x) - max_{y in Y} sim(y,x)) + lambda1 * sim(c,v)`. Kept in the original order.
    Budget: tokens of a picture, all its views together (the paper: `floor(S * (1 - R/2))` of S, R its total reduction).

    Source: *CATP: Contextually Adaptive Token Pruning for Efficient and Enhanced Multimodal In-Context Learning*,
    arXiv 2508.07871 (AAAI 2026).

    Attributes:
        lambda1: weight of the alignment with the text.

    """

    title = "CATP, stage 1"
    paper = "CATP: Contextually Adaptive Token Pruning for Efficient and Enhanced Multimodal In-Context Learning"
    arxiv = "2508.07871"
    differences = (
        "stage 1 only: the cuts in two layers of the decoder, by attention and context, are left out",
        "no code was published; chosen here: (1 + cos)/2 as rescaled cosine, original order, lower index on ties",
        "v is the mean over the prompt's whole text, not over the one text that is paired with the picture",
    )
    needs = frozenset({"text"})

    lambda1: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.lambda1 < math.inf:
            raise ValueError(f"lambda1={self.lambda1}: give a number from 0 on")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the projector."""
        return (Stage("projected", keep=budget.count(shape.tokens)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The representative tokens, in their original order."""
        assert stage.keep is not None
        rows = taps.hidden(-1)
        meaning = mean_text(taps)
        aligned = (normalize(rows.float(), dim=-1) * normalize(meaning, dim=-1)[:, None]).sum(-1)
        picks = diverse((1 + cosines(rows)) / 2, self.lambda1 * (1 + aligned) / 2, stage.keep, "facility")
        return Selection(indices=ascending(picks)[:, None])


METHOD = CATP
