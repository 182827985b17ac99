"""SparseVLM: the words that matter to a picture rate its tokens, three times on their way through the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.counts import counts
from exporter.maths.depths import at_depth
from exporter.maths.raters import rated, raters, strongest
from exporter.maths.recycle import recycled
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending, ranked

LAYERS, DEPTH, TOKENS = (2, 6, 15), 32, 576
TABLES: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "1.0": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}


@dataclass(frozen=True)
class SparseVLM(Reducer):
    """Rank tokens by the attention that the raters, words of the prompt, pay to them in the layer that has just run.

    Raters, chosen once from input embeddings: text tokens t behind the first picture with `m_t > mean(m)`,
    `m = mean over V of softmax(V Q^T)`, V the pictures' tokens and Q that text. At a cut of n tokens
    `score = mean over heads and raters of A`, fp32; min(k, n - 1) stay, in their order. Of the d others, 1.0 takes the
    `int(0.3 d) + 1` of the best scores, finds `int(that / 10) + 1` clusters (DPC-kNN of the layer's output) and appends
    their means; all rows are numbered anew. 2.0 (SparseVLM+) merges none and keeps positions: it divides A by
    `(R 1)(R 1)^T / sqrt(d_head)`, what RoPE makes of ones at the rows' positions, and averages the 14 heads that give
    the picture's tokens most. Budget: the authors' RETAIN_TOKN, about the mean over layers: for 192, 128, 96 and 64 of
    576 tokens their three counts, else the lines between those and through 0 and 576, scaled to the tokens there are.

    Attributes:
        version: 1.0, what the authors' code runs unless told otherwise, or 2.0.
        retain: 192, 128, 96 or 64: the counts of this RETAIN_TOKN, whatever --keep says.
        counts: tokens that each cut keeps, such as `300,200,110`, whatever --keep says.
        layers: 0-based layers that are cut behind; by default 2, 6 and 15 of 32, or at the same share of the depth.
        heads: of 2.0.
        recycle: share of the dropped tokens that 1.0 clusters.
        members: of these, tokens to a cluster.

    Raises:
        ValueError: an unknown version or retain, lists that do not fit each other, a parameter out of its range.
        UserError: layers that the decoder does not have.

    Source: *SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference*, arXiv 2410.04417.

    """

    title = "SparseVLM"
    paper = "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference"
    arxiv = "2410.04417"
    site = "decoder"
    differences = (
        "counts are fixed as in the authors' code; the paper's adaptive ratio by rank is in neither",
        "no random noise on densities, which decides for rows far apart: of equal ones the better scored is denser",
        "budgets between and beyond the authors' four are interpolated (ours)",
        "2.0: of fewer than 14 heads all count, where the authors' code fails",
        "all text behind the first picture may rate, and rates every picture; the authors' code takes one picture",
        "where no text token is above the mean all of them rate; the authors' scores are then undefined",
    )

    version: str = "1.0"
    retain: int | None = None
    counts: str = ""
    layers: str = ""
    heads: int = 14
    recycle: float = 0.3
    members: int = 10

    def __post_init__(self) -> None:
        if self.version not in TABLES:
            raise ValueError(f"version {self.version} is neither 1.0 nor 2.0")
        if self.retain is not None and (self.retain not in TABLES[self.version] or self.counts):
            raise ValueError(f"retain {self.retain} is none of 192, 128, 96, 64, or counts are given too")
        left, layers = counts("counts", self.counts), counts("layers", self.layers)
        if left and (len(left) != len(layers or LAYERS) or min(left) < 1):
            raise ValueError(f"counts {self.counts} are not one number, 1 or more, for each of the layers")
        if len(layers) > len(left or LAYERS) or any(a >= b for a, b in pairwise(layers)):
            raise ValueError(f"layers {self.layers} do not rise, or are more than there are counts")
        if min(self.heads, self.members) < 1 or not 0 <= self.recycle <= 1:
            raise ValueError("heads and members are 1 or more, recycle is between 0 and 1")
        object.__setattr__(self, "positions", "renumber" if self.version == "1.0" else "keep")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look for the raters, and the cuts."""
        keep, now, left = budget.count(shape.tokens), shape.tokens, counts("counts", self.counts)
        if keep == now and not left and self.retain is None:
            return ()
        layers = self._layers(shape)
        retain = Fraction(keep * TOKENS, now) if self.retain is None else Fraction(self.retain)
        left = left or scheduled(TABLES[self.version], retain, now)
        stages = [Stage("decoder", -1)]
        for layer, wanted in zip(layers, left[-len(layers) :], strict=True):
            kept = min(wanted, now - 1)
            if kept < 1:
                break
            extra = self._clusters(now - kept)[1]
            stages.append(Stage("decoder", layer, keep=kept, extra=extra))
            now = kept + extra
        return tuple(stages)

    def _layers(self, shape: Shape) -> tuple[int, ...]:
        layers = counts("layers", self.layers) or at_depth(LAYERS, DEPTH, shape.decoder_layers)
        if not layers or layers[-1] > shape.decoder_layers - 2:
            raise UserError(
                f"--method sparsevlm: cannot cut behind layers {self.layers or LAYERS} of {shape.decoder_layers}; "
                "give --param layers= up to the last but one"
            )
        return layers

    def _clusters(self, dropped: int) -> tuple[int, int]:
        """How many dropped tokens are merged, into how many."""
        if self.version != "1.0":
            return 0, 0
        merged = min(int(self.recycle * dropped) + 1, dropped)
        return merged, min(merged // self.members + 1, merged)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The raters; or what they rate highest, and what else is merged."""
        if stage.keep is None:
            return Selection(marks={"rater": raters(taps)})
        scores = self.scores(self.received(taps, stage.layer)) / taps.marks["rater"].sum(1).clamp(min=1)[:, None, None]
        merged = self._clusters(scores.shape[-1] - stage.keep)[0]
        order = ranked(scores, stage.keep + merged)
        kept = ascending(order[..., : stage.keep])
        if not stage.extra:
            return Selection(indices=kept, scores=scores)
        rows = taps.span_of(taps.hidden(stage.layer).transpose(1, 2)).transpose(2, 3)
        mix = recycled(rows, order[..., stage.keep :], stage.extra)
        return Selection(indices=kept, mix=mix, scores=scores)

    def received(self, taps: Taps, layer: int) -> Tensor:
        """`[B,I,H,n]` fp32: attention of all raters together."""
        return rated(taps, layer, taps.marks["rater"], gravity=self.version == "2.0")

    def scores(self, received: Tensor) -> Tensor:
        """`[B,I,n]` fp32: mean over the heads that count."""
        if self.version == "1.0":
            return received.mean(2)
        chosen = strongest(received, self.heads)
        return (received * chosen[..., None]).sum(2) / chosen.sum(2, keepdim=True)


def scheduled(table: Mapping[int, Sequence[int]], retain: Fraction, total: int) -> tuple[int, ...]:
    """Counts of the three cuts of `total` tokens: on the lines between the table's points, which are for 576."""
    points = [(0, (0, 0, 0)), *sorted(table.items()), (TOKENS, (TOKENS,) * 3)]
    (low, before), (high, after) = next(pair for pair in pairwise(points) if retain <= pair[1][0])
    share = (retain - low) / (high - low)
    return tuple(max(1, round((a + (b - a) * share) * total / TOKENS)) for a, b in zip(before, after, strict=True))


METHOD = SparseVLM
