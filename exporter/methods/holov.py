"""HoloV: share the budget among stretches of the picture, then keep the most attended patches of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.runs import Runs
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import WITHOUT_CLS, attended, scored_layer
from exporter.select import ranked, ranks


@dataclass(frozen=True)
class HoloV(Reducer):
    """Cut the list of projected tokens into runs, share the budget by their mean scores, rank each run by attention.

    With `a` the head mean of the [CLS] row of the layer that the projector reads, and `var` the variance of a token's
    cosine similarities within its run: `score = 1000 a + alpha * var * mean(1000 a) / (mean(var) + 1e-6)`, both means
    over the run. A run's share is its mean score over the sum of all; shares are floored, what is left goes one each to
    the largest shares. Kept tokens come run after run, each in descending attention; a run with no more tokens than its
    share keeps all of them in their order. Rows of zeros, which the language model sees, fill what is missing.
    Budget: tokens of the whole picture, all views together.

    Attributes:
        alpha: weight of the variance; it hardly changes shares, since its mean over a run is again that of attention.
        runs: how many. None: the authors' rule `(1024 / 576) * N / K`, at least one: 16 for 64 of 576.
        redistribute: ours: what a run cannot use goes to the next ones, so that no row is zero.

    Source: *Don't Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention*,
    arXiv 2510.02912.
    """

    title = "HoloV"
    paper = 'Don\'t Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention'
    arxiv = "2510.02912"
    differences = (
        "runs follow the list of tokens, as in the authors' code, not squares of the picture, as in the paper",
        "the number of runs follows the rule of the authors' Qwen2.5-VL code in all models; their LLaVA code says 16",
        "each picture has its own list; the authors' code joins the pictures of a prompt",
        "runs of one token have no variance; the authors' code divides by zero",
        f"{WITHOUT_CLS}; the authors' own Qwen2.5-VL code shifts the span by one token and mixes orders",
    )

    alpha: float = 0.09
    runs: int | None = None
    redistribute: bool = False

    def __post_init__(self) -> None:
        if self.runs is not None and self.runs < 1:
            raise ValueError(f"runs {self.runs} is less than 1")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """Attention is noted behind the last used tower layer; the cut is behind the projector.

        Raises:
            UserError: more runs than tokens, or the budget cannot be met.
        """
        keep = budget.count(shape.tokens)
        if self.runs is not None and self.runs > shape.tokens:
            raise UserError(f"--param runs={self.runs}: a picture has {shape.tokens} tokens; give at most as many")
        return (
            Stage("tower", shape.tower_last),
            Stage("projected", keep=keep, blanks=not self.redistribute),
        )

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Carry attention to the projector; there, choose."""
        if stage.keep is None:
            return Selection(carry={"attention": attended(taps, scored_layer(taps.shape, stage.layer))})
        attention = taps.carry["attention"]
        tokens = attention.shape[-1]
        count = self.runs or min(tokens, max(1, int((1024 / 576) * tokens / stage.keep)))
        runs = Runs(tokens, count)
        scores = 1000 * runs.split(attention, 0.0)
        if self.alpha:
            var = similarity_variance(runs, taps.hidden(-1)[:, None])
            balance = runs.mean(scores) / (runs.mean(var) + 1e-6)
            scores = scores + self.alpha * var * balance[..., None]
        share = shares(runs.mean(scores), stage.keep)
        if self.redistribute:
            share = passed_on(share, runs.sizes)
        return Selection(indices=emitted(runs, attention, share, stage.keep))


def similarity_variance(runs: Runs, features: Tensor) -> Tensor:
    """`[B,I,P,m]`: variance of each token's cosines to its run, a zero for itself among them, over m - 1."""
    rows = runs.split(features.float(), 0.0)
    rows = rows / (rows.norm(dim=-1, keepdim=True) + 1e-6)
    width = rows.shape[-2]
    cosines = (rows @ rows.transpose(-1, -2)) * (1 - torch.eye(width))
    others = (runs.sizes - 1).clamp(min=1)[:, None].float()
    away = cosines - (cosines.sum(-1) / others)[..., None]
    spread: Tensor = (away.square() * runs.real[:, None, :]).sum(-1)
    return spread / others * runs.real


def shares(scores: Tensor, keep: int) -> Tensor:
    """`[B,I,P]` int64 tokens for each run, `keep` in all, in proportion to `scores` `[B,I,P]`."""
    weights = scores / (scores.sum(-1, keepdim=True) + 1e-6)
    floors = (keep * weights).floor().to(torch.int64)
    return floors + (ranks(weights) < keep - floors.sum(-1, keepdim=True)).to(torch.int64)


def passed_on(share: Tensor, sizes: Tensor) -> Tensor:
    """Shares `[B,I,P]` with what exceeds a run's size added to the next one's, from the last to the first."""
    over = torch.zeros_like(share[..., 0])
    for _ in range(2):  # the second round takes what the last run could not
        taken = []
        for run, size in zip(share.unbind(-1), sizes.tolist(), strict=True):
            taken.append((run + over).clamp(max=size))
            over = run + over - taken[-1]
        share = torch.stack(taken, -1)
    return share


def emitted(runs: Runs, attention: Tensor, share: Tensor, keep: int) -> Tensor:
    """`[B,I,keep]` int64: each run's tokens by attention, or all in order where the share takes all; then -1."""
    slots = torch.arange(runs.width)
    order = ranked(runs.split(attention, -1.0), runs.width)
    order = torch.where((share >= runs.sizes)[..., None], slots, order) + runs.starts[:, None]
    used = slots < torch.minimum(share, runs.sizes)[..., None]
    order, used = order.flatten(-2), used.flatten(-2)
    place = torch.arange(order.shape[-1])
    first = ranked(torch.where(used, 2 * len(place) - place, -place), keep)
    chosen = order.gather(-1, first)
    return torch.where(torch.arange(keep) < used.sum(-1, keepdim=True), chosen, -1)


METHOD = HoloV
