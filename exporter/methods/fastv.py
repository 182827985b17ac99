"""FastV: behind an early decoder layer, keep the picture's tokens that the prompt's last token attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.budget import Budget
from exporter.maths.asked import by_last
from exporter.maths.depths import at_depth
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import top_k

LAYERS, DEPTH = (1,), 32  # 0-based: k = 2


@dataclass(frozen=True)
class FastV(Reducer):
    """Rank tokens by the attention of the prompt's last token in layer k, and drop the others from then on.

    `score = mean over heads of A[last, token]`, fp32, A the softmax over all tokens in the k-th layer; the largest
    stay, in their order and at their positions. Budget: tokens of a picture; theirs is `round(N (1 - R))`, R the
    fraction dropped.

    Attributes:
        k: layers that run on all tokens. By default 2 of 32, as in the paper, or the same share of the depth; the
            authors' demo has 3.

    Raises:
        ValueError: k is no whole number from 1 on.

    Source: *An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-Language
    Models*, arXiv 2403.06764 (ECCV 2024); authors' code with a cache.
    """

    title = "FastV"
    paper = (
        "An Image is Worth 1/2 Tokens After Layer 2: "
        "Plug-and-Play Inference Acceleration for Large Vision-Language Models"
    )
    arxiv = "2403.06764"
    site = "decoder"
    positions = "keep"
    differences = (
        "--keep is what stays, where the authors' fastv_r is the share that goes",
        "several pictures: of each the same number stays; the authors' code prunes one",
        "generated tokens choose nothing anew, as in the authors' code with a cache; their masked form does",
        "scores are fp32 and ties go to the lower index",
    )

    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None and (not isinstance(self.k, int) or self.k < 1):
            raise ValueError(f"k {self.k} is no number of layers from 1 on")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut behind the k-th layer."""
        keep = budget.count(shape.tokens)
        (layer,) = at_depth(LAYERS, DEPTH, shape.decoder_layers) or LAYERS
        cut = Stage("decoder", layer if self.k is None else self.k - 1, keep=keep)
        return (cut,) if keep < shape.tokens else ()

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The tokens that the last one attends to most."""
        assert stage.keep is not None
        scores = by_last(taps, stage.layer)
        return Selection(indices=top_k(scores, stage.keep), scores=scores)


METHOD = FastV
