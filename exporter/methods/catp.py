"""CATP: keep tokens that stand for a picture and agree with the text, then those that the question comes to need."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.nn.functional import normalize

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.context import recalled, rising
from exporter.maths.depths import at_depth
from exporter.maths.greedy import diverse
from exporter.maths.similarity import cosines, mean_text
from exporter.reducer import Positions, Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending, top_k

OWN, DEPTH = {28: 6, 32: 6, 40: 10}, 32  # k by layers of the decoder


@dataclass(frozen=True)
class CATP(Reducer):
    """Greedy choice over projected tokens, then a cut by attention and context in a shallow layer of the decoder.

    Stage 1, each picture by itself. With `sim = (1 + cos) / 2` and v the mean of the text's input embeddings, the kept
    set Y grows to make `F(Y) = sum_x max_{y in Y} sim(y,x) + lambda1 * sum_{y in Y} sim(y,v)` large: each step takes
    the token c that gains most, `sum_x max(0, sim(c,x) - max_{y in Y} sim(y,x)) + lambda1 * sim(c,v)`.
    Stage 2. The last picture is the question's, those before it belong to demonstrations. In layer k a token has
    `S = max(0, A_k - A_(k-1)) + lambda2 * cos(h, mean h)`: A the attention of the prompt's last token, mean over heads;
    h its output, the mean over the last picture and all behind it. In layer k + 1 the last picture's tokens have
    `S = cos(h, mean h)` instead, the mean over what the demonstrations' pictures keep. The largest S stay. All fp32,
    kept in the original order, in the decoder at their positions. Budget: tokens T of a picture, all its views
    together, behind both stages; of its M the first keeps `floor((M + T) / 2)`, so that each drops half of what goes.

    Source: *CATP: Contextually Adaptive Token Pruning for Efficient and Enhanced Multimodal In-Context Learning*,
    arXiv 2508.07871 (AAAI 2026).

    Attributes:
        lambda1: weight of the alignment with the text.
        lambda2: weight of the likeness to the question.
        k: layer of stage 2, counted from 1; by default 6 of 28 or 32, 10 of 40, or at the same share of the depth.
        stage1_only: leave stage 2 out; then the first keeps T.

    Raises:
        ValueError: a weight below 0, or a k that is no number of layers.
        UserError: no layer k to cut behind.

    """

    title = "CATP"
    paper = "CATP: Contextually Adaptive Token Pruning for Efficient and Enhanced Multimodal In-Context Learning"
    arxiv = "2508.07871"
    site = "encoder + decoder"
    positions = "keep"
    unverified = True
    differences = (
        "no code was published; chosen here: (1 + cos)/2 as rescaled cosine, original order, lower index on ties",
        "v is the mean over the prompt's whole text, not over the one text that is paired with the picture",
        "of each demonstration's picture the same number stays; the paper ranks the tokens of all together",
        "with room for several pictures all are cut behind layer k + 1; the paper cuts demonstrations one layer before",
        "a picture without demonstrations is ranked as these are; the paper has none",
        "layers are counted from 1, positions stay, context is pictures alone: the paper does not say",
    )
    needs = frozenset({"text"})

    lambda1: float = 0.7
    lambda2: float = 0.6
    k: int | None = None
    stage1_only: bool = False

    def __post_init__(self) -> None:
        for name in ("lambda1", "lambda2"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give a number from 0 on")
        if self.k is not None and (not isinstance(self.k, int) or self.k < 1):
            raise ValueError(f"k={self.k}: give a number of layers from 1 on")

    @property
    def entry(self) -> Positions:
        """What reaches the decoder is numbered anew."""
        return "renumber"

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut behind the projector, and one in the decoder; where there may be demonstrations, a look before it."""
        total, keep = shape.tokens, budget.count(shape.tokens)
        if self.stage1_only:
            return (Stage("projected", keep=keep),)
        if keep == total:
            return ()
        layer = self._layer(shape)
        last = min(layer + 1, shape.decoder_layers - 2) if shape.images > 1 else layer
        looks = (Stage("decoder", layer),) if layer < last else ()
        return (Stage("projected", keep=(total + keep) // 2), *looks, Stage("decoder", last, keep=keep))

    def _layer(self, shape: Shape) -> int:
        """0-based."""
        layers = shape.decoder_layers
        own = (self.k or OWN.get(layers, OWN[DEPTH])) - 1
        found = (own,) if self.k or layers in OWN else at_depth((own,), DEPTH, layers)
        if not found or found[0] > layers - 2:
            raise UserError(
                f"--method catp: cannot cut behind layer {own + 1} of {layers}; "
                "give --param k= up to the last but one, or --param stage1_only=true"
            )
        return found[0]

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The representative tokens, or those that the question needs, in their original order."""
        if stage.stack == "projected":
            assert stage.keep is not None
            return self._represent(taps, stage.keep)
        if stage.keep is None:
            return Selection(carry={"need": rising(taps, stage.layer, self.lambda2)})
        scores = taps.carry["need"] if "need" in taps.carry else rising(taps, stage.layer, self.lambda2)
        if taps.span.shape[1] > 1:
            scores = recalled(taps, stage.layer, scores, stage.keep)
        return Selection(indices=top_k(scores, stage.keep), scores=scores)

    def _represent(self, taps: Taps, keep: int) -> Selection:
        rows = taps.hidden(-1)
        meaning = mean_text(taps)
        aligned = (normalize(rows.float(), dim=-1) * normalize(meaning, dim=-1)[:, None]).sum(-1)
        picks = diverse((1 + cosines(rows)) / 2, self.lambda1 * (1 + aligned) / 2, keep, "facility")
        return Selection(indices=ascending(picks)[:, None])


METHOD = CATP
