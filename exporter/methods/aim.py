"""AIM: merge alike tokens in front of the decoder, then drop more in each of its later layers until none is left."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.depths import at_depth
from exporter.maths.flow import HIDDEN
from exporter.maths.halving import halved
from exporter.maths.surfing import surfed
from exporter.reducer import Positions, Reducer, Selection, Shape, Stage, Taps
from exporter.select import marked, top_k

START, DEPTH = 14, 28  # the authors' schedule is for Qwen2


@dataclass(frozen=True)
class Mask(Stage):
    """A place where mode mask hides all but `left` tokens of each span."""

    left: int = 0


@dataclass(frozen=True)
class AIM(Reducer):
    """Merge each view's projected tokens by similarity, then rank by PageRank of the decoder's attention.

    Merging, fp32: tokens at even places flow into the most alike ones at odd places, the best pairs first, at most half
    a round, until the budget is met; a merged token is the mean of the round. Rows: unmerged even ones by falling
    similarity, then the odd ones; not the order of places, and numbered anew. Pruning behind layer l, l >= start: of N
    tokens that entered, those `int(N max(0, 1 - step (l - start + 1)))` of the largest `sqrt(mean over heads of pi^2)`
    stay, pi being `iterations` steps of `pi <- (1 - damping) pi M + damping / S` from 1/S, `M = softmax(Z / tau)`, Z
    the layer's masked logits, S rows. They keep their order and positions; text always stays. Budget: tokens behind
    the merging, of all views together (less by what does not divide by the views); the authors' is 25%. All of them:
    the whole model, unpruned.

    Attributes:
        mode: drop removes tokens. mask hides them from later layers, as the authors' code does, which saves nothing and
            lets their rows go on to vote.
        merge: whether to merge; if not, --keep must be all tokens, and pruning goes on without it.
        start: the 0-based layer behind which the first tokens go; by default the authors' schedule (14 to 21 of 28
            layers) at the same share of the depth.
        step: share of the tokens that goes after each layer; 0 prunes none.
        tau: temperature of the graph.
        iterations: steps of PageRank.
        damping: share of the walk that starts anew.

    Raises:
        ValueError: an unknown mode, or a parameter out of its range.
        UserError: less than one token a view, no merging with less than all tokens, or no layer `start` to cut behind.

    Source: *AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning*, arXiv 2412.03248.

    """

    title = "AIM"
    paper = "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning"
    arxiv = "2412.03248"
    site = "encoder + decoder"
    positions = "keep"
    differences = (
        "dropped tokens are gone and vote no more; the authors' code masks them, as does mode=mask",
        "merging halves until the budget is met; the authors' is the same where their counts are asked for",
        "each picture of a prompt is ranked by itself; the authors' code takes one block of visual tokens",
        "where the decoder has another depth, the layers lie at the same share of it (ours)",
        "ties go to the lower index",
    )

    mode: str = "drop"
    merge: bool = True
    start: int | None = None
    step: float = 0.125
    tau: float = 0.1
    iterations: int = 5
    damping: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in {"drop", "mask"}:
            raise ValueError(f"mode {self.mode} is neither drop nor mask")
        if not (0 <= self.step <= 1 and 0 <= self.damping <= 1):
            raise ValueError(f"step {self.step} and damping {self.damping} are between 0 and 1")
        if not self.tau > 0 or not 1 <= self.iterations <= 100:
            raise ValueError(f"tau {self.tau} is above 0, iterations {self.iterations} from 1 to 100")
        if self.start is not None and not (isinstance(self.start, int) and self.start >= 0):
            raise ValueError(f"start {self.start} is no layer")

    @property
    def entry(self) -> Positions:
        """Merged rows are not in the order of places."""
        return "renumber"

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One merge behind the projector, then a stage behind each layer of the schedule."""
        keep = budget.count(shape.tokens)
        if not self.merge and keep < shape.tokens:
            raise UserError(f"--keep {budget.text}: without merging all {shape.tokens} tokens enter: give --keep 100%")
        if not self.merge:
            return self._pruning(keep, shape)
        if keep == shape.tokens:
            return ()
        if keep < shape.views:
            raise UserError(f"--keep {budget.text}: aim leaves one token a view or more: give {shape.views} or more")
        keep = keep // shape.views * shape.views
        return (Stage("projected", keep=keep), *self._pruning(keep, shape))

    def _pruning(self, entered: int, shape: Shape) -> tuple[Stage, ...]:
        stages, now = list[Stage](), entered
        for layer, share in self._shares(shape) if self.step else ():
            left = int(entered * share)
            if left < now:
                dropping = self.mode == "drop"
                stages.append(Stage("decoder", layer, keep=left) if dropping else Mask("decoder", layer, left=left))
            now = left
        return tuple(stages)

    def _shares(self, shape: Shape) -> list[tuple[int, Fraction]]:
        """What is left behind which layers; a decoder of few has the last of the authors' shares."""
        step = Fraction(str(self.step))
        shares = [max(Fraction(0), 1 - step * number) for number in range(1, 1 - (-1 // step))]
        if self.start is None:
            layers = at_depth(range(START, DEPTH - 1)[: len(shares)], DEPTH, shape.decoder_layers)
            return list(zip(layers, shares[: DEPTH - 1 - START][-len(layers) :], strict=True)) if layers else []
        last = shape.decoder_layers - 2
        if self.start > last:
            raise UserError(f"--param start={self.start}: the last layer to cut behind is {last}: give that or less")
        return list(zip(range(self.start, last + 1), shares, strict=False))

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Merge, drop or mask."""
        if stage.stack == "projected":
            return self._merged(taps, stage)
        if isinstance(stage, Mask):
            return self._masked(taps, stage)
        assert stage.keep is not None
        if not stage.keep:
            return Selection(indices=torch.zeros(*taps.span.shape[:2], 0, dtype=torch.int64))
        scores = self.importance(taps, stage.layer)
        return Selection(indices=top_k(scores, stage.keep), scores=scores)

    def importance(self, taps: Taps, layer: int) -> Tensor:
        """`[B,I,n]` fp32."""
        return taps.span_of(surfed(taps, layer, self.tau, self.iterations, self.damping))

    def _masked(self, taps: Taps, stage: Mask) -> Selection:
        alive = taps.carry.get("alive", torch.ones(taps.span.shape))
        still = torch.zeros_like(alive)
        if stage.left:
            scores = self.importance(taps, stage.layer) + (alive - 1)
            still = marked(top_k(scores, stage.left), scores.shape[-1])
        return Selection(key_bias=HIDDEN * (still - alive), carry={"alive": still})

    def _merged(self, taps: Taps, stage: Stage) -> Selection:
        """Every view by itself; the views' rows one after another."""
        assert stage.keep is not None
        views, patches = taps.shape.views, taps.shape.patches
        places = torch.tensor(taps.shape.places or range(views * patches))
        rows = taps.hidden(-1).float()[:, places]
        own, mix = halved(rows.reshape(-1, views, patches, rows.shape[-1]), stage.keep // views)
        wide = mix[:, :, :, None] * torch.eye(views)[:, None, :, None]  # [B,V,each,V,n]
        return Selection(
            indices=places[(own + torch.arange(views)[:, None] * patches).flatten(1)][:, None],
            mix=wide.flatten(1, 2).flatten(2)[:, None][..., places.argsort()],
            mix_rows=tuple(range(stage.keep)),
        )


METHOD = AIM
