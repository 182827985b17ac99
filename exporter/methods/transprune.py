"""TransPrune: drop the picture's tokens that the layers move least and that the instruction looks at least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.asked import by_text
from exporter.maths.counts import counts
from exporter.maths.staircase import Staircase, rising, staircase
from exporter.maths.transition import transition
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import gather_rows, top_k

LAYERS, RATIOS = (7, 9, 12), (0.875, 0.625, 0.125)
EPSILON = 1e-8


@dataclass(frozen=True)
class TransPrune(Reducer):
    """Rank tokens by token transition (TTV) and by the attention of the instruction (IGA), behind layers 7, 9 and 12.

    `score = T / sum(T) + G / sum(G)`, fp32, sums over a picture's tokens. T adds up, over the layers 7 to 12 that ran,
    how far attention and MLP move a token (`maths/transition.py`); G is the mean over heads and all rows of text behind
    the picture of the attention that the next layer would pay. The largest stay, in their order; all rows are numbered
    anew. Budget: tokens of a picture left behind the last cut; the cuts before it leave as much of the way from all
    tokens to these as the authors' do, so that 72 of 576 are 504, 360, 72.

    Attributes:
        layers: to cut behind, counted from 1; by default 7, 9 and 12 of 32, or at the same share of the depth.
        ratios: shares of a picture left behind each, such as `0.875,0.625,0.125`, whatever --keep says; rounded down.
        accumulate: layers, counted from 1, whose transitions are added up; by default all from the first cut to the
            last.

    Raises:
        ValueError: lists of different length, layers that do not rise, shares that do.
        UserError: layers that the decoder does not have.

    Source: *TransPrune: Token Transition Pruning for Efficient Large Vision-Language Model*, arXiv 2507.20630
    (CVPR 2026); authors' code.
    """

    title = "TransPrune"
    paper = "TransPrune: Token Transition Pruning for Efficient Large Vision-Language Model"
    arxiv = "2507.20630"
    site = "decoder"
    differences = (
        "--keep is the count behind the last cut; the authors give ratios, as the parameter does",
        "both halves of the score weigh the same, as in the authors' code; the paper has a weight",
        "a transition is normalised over the tokens of its own sequence; the authors' code runs one at a time",
        "GQA: query heads share a key head; the authors' code fails where there are fewer key heads",
        "several pictures: each is ranked by itself; the authors' code prunes the first",
        "positions of several axes stay as they are (ours), all others are numbered anew",
        "scores are fp32 and ties go to the lower index",
    )

    layers: str = ""
    ratios: str = ""
    accumulate: str = ""

    def __post_init__(self) -> None:
        self.stairs()
        if not rising((0, *counts("accumulate", self.accumulate))):
            raise ValueError(f"accumulate {self.accumulate} does not rise from 1 on")

    def stairs(self) -> Staircase:
        """Where it cuts, and how much."""
        return staircase(self.layers, self.ratios, LAYERS, RATIOS)

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The cuts, and looks at the layers in between."""
        cuts = self.stairs().cuts("transprune", shape, budget)
        looks = [layer for layer in self.accumulated(shape) if layer < max(cuts)] if cuts else []
        return tuple(Stage("decoder", layer, keep=cuts.get(layer)) for layer in sorted({*looks, *cuts}))

    def accumulated(self, shape: Shape) -> tuple[int, ...]:
        """The layers, 0-based, whose transitions count."""
        if given := counts("accumulate", self.accumulate):
            return tuple(layer - 1 for layer in given)
        layers = self.stairs().behind("transprune", shape)
        return tuple(range(layers[0], layers[-1] + 1))

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Add a layer's transition, and cut."""
        moved = taps.carry.get("ttv", torch.zeros(taps.span.shape))
        if stage.layer in self.accumulated(taps.shape):
            moved = moved + transition(taps, stage.layer)
        if stage.keep is None:
            return Selection(carry={"ttv": moved})
        scores = _shares(moved) + _shares(by_text(taps, stage.layer + 1))
        kept = top_k(scores, stage.keep)
        return Selection(indices=kept, carry={"ttv": gather_rows(moved, kept)}, scores=scores)


def _shares(values: Tensor) -> Tensor:
    return values / (values.sum(-1, keepdim=True) + EPSILON)


METHOD = TransPrune
