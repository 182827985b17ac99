"""ToDRE, stage 2: no token of a picture goes through the last eighth of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.crosstalk import crosstalk
from exporter.maths.flow import HIDDEN
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps

DROPS = ("always", "tau")


@dataclass(frozen=True)
class ToDREStage2(Reducer):
    """Behind 7 of 8 decoder layers, all tokens of pictures go; text goes on alone, at its positions.

    Outputs, from the attention of that layer, mean over heads: `alpha_tv`, the share of it that the text behind the
    first picture pays to pictures, mean over its rows; `alpha_vt`, the share that pictures pay to this text, which is 0
    where nothing but system text stands before the last picture; `agrees`, 1 where both are below tau, so that the
    paper drops, too. Caches of the layers before hold pictures, those behind only text. Budget: 100%, as all tokens
    stay until then.

    Attributes:
        drop: always, a constant choice. tau: as in the paper, only where both shares are below tau; then the pictures'
            tokens run on, hidden from the layers behind, which saves nothing.
        tau: the threshold.

    Raises:
        ValueError: an unknown drop, or a threshold that is not between 0 and 1.
        UserError: another budget, or a decoder of one layer.

    Source: *ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance*, arXiv 2505.18757v2, section
    4.2.

    """

    title = "ToDRE, stage 2"
    paper = "ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance"
    arxiv = "2505.18757v2"
    site = "decoder"
    positions = "keep"
    unverified = True
    differences = (
        "drop=always does not ask tau; the outputs say whether the paper would have dropped, drop=tau does as it says",
        "no code was published; chosen here: layer 28 of 32 is counted from 1 and asked; other depths round up",
        "text is what stands behind the first picture; what stands before it counts as the system's",
    )

    drop: str = "always"
    tau: float = 0.1

    def __post_init__(self) -> None:
        if self.drop not in DROPS:
            raise ValueError(f"drop={self.drop}: choose from {', '.join(DROPS)}")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau={self.tau}: give a number from 0 to 1")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, late in the decoder."""
        if budget.count(shape.tokens) < shape.tokens:
            raise UserError(
                f"--keep {budget.text}: stage 2 leaves all {shape.tokens} tokens up to its layer: give --keep 100%, "
                "or use --method todre"
            )
        return (self.late(shape),)

    def late(self, shape: Shape) -> Stage:
        """Behind 7/8 of the layers, rounded up, but the last."""
        layers = shape.decoder_layers
        if layers < 2:
            raise UserError(f"--method todre: no late layer among {layers} of the decoder; give --param stage2=false")
        layer = min(-(-7 * layers // 8) - 1, layers - 2)
        return Stage("decoder", layer, keep=0 if self.drop == "always" else None)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Nothing, or nothing that is seen."""
        to_pictures, to_text = crosstalk(taps, stage.layer)
        gone = ((to_pictures < self.tau) & (to_text < self.tau)).to(torch.int64)
        outputs = {"alpha_tv": to_pictures, "alpha_vt": to_text, "agrees": gone}
        if stage.keep is None:
            hidden = -HIDDEN * gone[:, None, None].float().expand(taps.span.shape)
            return Selection(key_bias=hidden, outputs=outputs)
        return Selection(indices=torch.zeros(*taps.span.shape[:2], 0, dtype=torch.int64), outputs=outputs)


METHOD = ToDREStage2
