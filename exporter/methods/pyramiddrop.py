"""PyramidDrop: stage by stage, keep the picture's tokens that the prompt's last token would attend to most."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.budget import Budget
from exporter.maths.asked import by_last
from exporter.maths.staircase import Staircase, staircase
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import top_k

LAYERS, RATIOS = (8, 16, 24), (0.5, 0.25, 0.125)


@dataclass(frozen=True)
class PyramidDrop(Reducer):
    """Rank tokens, behind layers 8, 16 and 24, by the attention that the next layer would pay to them.

    `score = mean over heads of softmax(q k^T)` in fp32, over all tokens; q of the prompt's last token and k by the next
    layer's own norm, projections and rotation. The largest stay, in their order; all rows are numbered anew.
    Budget: tokens of a picture left behind the last cut; the cuts before it leave as much of the way from all tokens to
    these as the authors' do, so that 72 of 576 are 288, 144, 72.

    Attributes:
        layers: to cut behind, counted from 1; by default 8, 16 and 24 of 32, or at the same share of the depth.
        ratios: shares of a picture left behind each, such as `0.5,0.25,0.125`, whatever --keep says; rounded down.

    Raises:
        ValueError: lists of different length, layers that do not rise, shares that do.
        UserError: layers that the decoder does not have.

    Source: *PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction*, arXiv
    2410.17247 (CVPR 2025); authors' code.
    """

    title = "PyramidDrop"
    paper = "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction"
    arxiv = "2410.17247"
    site = "decoder"
    differences = (
        "--keep is the count behind the last cut; the authors give ratios, as the parameter does",
        "GQA: query heads share a key head; the authors' code fails where there are fewer key heads",
        "several pictures: each is ranked by itself; the authors' code prunes one",
        "positions of several axes stay as they are (ours), all others are numbered anew",
        "scores are fp32 and ties go to the lower index",
    )

    layers: str = ""
    ratios: str = ""

    def __post_init__(self) -> None:
        self.stairs()

    def stairs(self) -> Staircase:
        """Where it cuts, and how much."""
        return staircase(self.layers, self.ratios, LAYERS, RATIOS)

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The cuts."""
        cuts = self.stairs().cuts("pyramiddrop", shape, budget)
        return tuple(Stage("decoder", layer, keep=keep) for layer, keep in cuts.items())

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The tokens that the last one is about to attend to most."""
        assert stage.keep is not None
        scores = by_last(taps, stage.layer + 1)
        return Selection(indices=top_k(scores, stage.keep), scores=scores)


METHOD = PyramidDrop
