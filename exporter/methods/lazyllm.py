"""LazyLLM (static): on its way through the decoder a prompt loses the tokens that its last one attends to least."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import torch

from exporter.budget import Budget
from exporter.maths.asked import by_last, held
from exporter.maths.staircase import behind, places_of
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import gather_rows, marked, top_k

LAYERS, SHARE, LEFT = (9, 19, 28), 0.3, Budget("34.3%")


@dataclass(frozen=True)
class LazyLLM(Reducer):
    """Rank the prompt's tokens behind layers 9, 19 and 28, and drop the same share of them each time.

    `score = mean over heads of A[last, token]`, fp32, in the layer that has just run; of n tokens the
    `n - floor(n share)` largest stay, in their order and at their positions, and the last always does. The rest have no
    keys and values in later layers. Padding goes first. Budget: tokens of the prompt's padded length left behind the
    last cut; the share follows from it, each cut's the same. 34.3% is the paper's figure: 30% each, so 70%, 49%,
    34.3%.

    Attributes:
        layers: to cut behind, counted from 1; by default 9, 19 and 28 of 32, or at the same share of the depth.
        share: how much each cut drops, such as 0.3, whatever --keep says.
        aux: put out what the paper's auxiliary cache holds, by cut: `aux.LAYER` `[B,d,C]`, the states behind the layer
            of the d tokens that went, and `aux_places.LAYER` `[B,d]`, their places in the prompt, -1 for padding.

    Raises:
        ValueError: a share outside [0, 1), or layers that do not rise.
        UserError: layers that the decoder does not have.

    Source: *LazyLLM: Dynamic Token Pruning for Efficient Long Context LLM Inference*, arXiv 2407.14057, section 3.2.
    """

    title = "LazyLLM (static)"
    paper = "LazyLLM: Dynamic Token Pruning for Efficient Long Context LLM Inference"
    arxiv = "2407.14057"
    site = "decoder"
    positions = "keep"
    prompt = True
    pictures = False
    unverified = True
    differences = (
        "unverified: no code was published",
        "static: what the prompt lost does not come back; the paper chooses anew at every generated token (aux)",
        "counts, not percentiles: ties at the threshold go to the lower index instead of staying all",
        "counts are of the padded length, so that prompts shorter than it lose less",
        "places and shares are those of the paper's figures; those behind its tables are not given",
        "the last token always stays; the paper does not say so",
    )

    layers: str = ""
    share: float | None = None
    aux: bool = False

    def __post_init__(self) -> None:
        places_of(self.layers)
        if self.share is not None and not (isinstance(self.share, float | int) and 0 <= self.share < 1):
            raise ValueError(f"share {self.share} is not in [0, 1)")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The cuts."""
        now, own = shape.tokens, places_of(self.layers)
        left = self.counts(now, budget.count(now), len(own or LAYERS))
        if left[-1] == now:
            return ()
        layers, stages = behind("lazyllm", own or LAYERS, shape, placed=bool(own)), list[Stage]()
        for layer, count in zip(layers, left[-len(layers) :], strict=True):
            if count < now:
                stages.append(Stage("decoder", layer, keep=count))
                now = count
        return tuple(stages)

    def counts(self, total: int, keep: int, cuts: int) -> list[int]:
        """Tokens left behind each cut."""
        share = SHARE if self.share is None else self.share
        given = falling(total, share, cuts)
        if self.share is not None or (cuts == len(LAYERS) and keep in {given[-1], LEFT.count(total)}):
            return given
        return [max(keep, round(total * (keep / total) ** ((cut + 1) / cuts))) for cut in range(cuts - 1)] + [keep]

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The tokens that the last one attends to most; where asked, the states and places of the others."""
        assert stage.keep is not None
        scores = held(by_last(taps, stage.layer), taps.valid)
        kept, length = top_k(scores, stage.keep), scores.shape[-1]
        if not self.aux:
            return Selection(indices=kept, scores=scores)
        place = taps.carry.get("place", torch.arange(length).expand(scores.shape))
        gone = top_k(1 - marked(kept, length), length - stage.keep)[:, 0]
        there = gather_rows(taps.valid.to(torch.int64), gone) > 0
        outputs = {
            f"aux.{stage.layer}": gather_rows(taps.hidden(stage.layer), gone),
            f"aux_places.{stage.layer}": torch.where(there, gather_rows(place[:, 0], gone), -1),
        }
        return Selection(indices=kept, carry={"place": gather_rows(place, kept)}, outputs=outputs, scores=scores)


def falling(total: int, share: float, cuts: int) -> list[int]:
    """What is left of `total` after each cut: of n tokens `floor(n share)` go."""
    left = [total]
    for _ in range(cuts):
        left.append(left[-1] - floor(left[-1] * Fraction(str(share))))
    return left[1:]


METHOD = LazyLLM
