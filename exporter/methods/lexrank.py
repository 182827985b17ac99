"""LexRank: centrality of each token in the graph of their similarities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.budget import Budget
from exporter.maths.greedy import diverse
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending, top_k


@dataclass(frozen=True)
class LexRank(Reducer):
    """Rank tokens by their degree in a cosine graph, which is where its random walk comes to rest.

    `S = max(cos(x_i, x_j), 0)`, fp32, or 1 where `S >= threshold` and else 0; `M = S / rowsum(S)`. With mode `degree`
    the score is `N deg_i / sum_j deg_j`, `deg = rowsum(S)`; with `damped` it is N times what `iterations` steps of
    `p = d/N + (1-d) M^T p` make of uniform p. What stays keeps its order and is numbered anew. Budget: tokens of all
    views together behind the projector; patches per view with `tokens=tower`.

    Central tokens speak for a crowd of similar ones, so the most central are often duplicates of each other: `choose`
    says what to make of that.

    Attributes:
        mode: `degree` or `damped`.
        threshold: similarity, 0 to below 1, from which on two tokens are neighbours; None: edges have weights.
        damping: d of mode damped, 0 to 1.
        iterations: steps of mode damped.
        choose: `top` keeps the most central tokens; `bottom` the least central; `mmr` (maximal marginal relevance)
            picks one after another the largest `balance rel - (1 - balance) S`, rel the score over the largest score, S
            the similarity to the closest token that is picked.
        balance: of mmr, 0 (only unlike the others) to 1 (only central).
        tokens: `projected`, or `tower`: the hidden states that the projector reads.

    Source: *LexRank: Graph-based Lexical Centrality as Salience in Text Summarization*, JAIR 22 (2004),
    arXiv 1109.2128.
    """

    title = "LexRank"
    paper = "LexRank: Graph-based Lexical Centrality as Salience in Text Summarization"
    arxiv = "1109.2128"
    differences = (
        "cosines of tokens' features take the place of idf-modified cosines of sentences",
        "as a way to prune visual tokens it is ours: no accuracy is published for it",
        "mode degree is the closed form of the walk without damping, which the community's implementation iterates",
        "connected components are not told apart: of a graph in pieces that implementation scales each piece by itself",
    )

    mode: str = "degree"
    threshold: float | None = None
    damping: float = 0.15
    iterations: int = 32
    choose: str = "top"
    balance: float = 0.5
    tokens: str = "projected"

    def __post_init__(self) -> None:
        kinds = {"mode": ("degree", "damped"), "choose": ("top", "bottom", "mmr"), "tokens": ("projected", "tower")}
        for name, allowed in kinds.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)} is none of {', '.join(allowed)}")
        if self.threshold is not None and not (isinstance(self.threshold, int | float) and 0 <= self.threshold < 1):
            raise ValueError(f"threshold {self.threshold} is not a number from 0 to below 1")
        for name in ("damping", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not between 0 and 1")
        if not 1 <= self.iterations <= 1000:
            raise ValueError(f"iterations {self.iterations} is not between 1 and 1000")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, in front of or behind the projector."""
        if self.tokens == "tower":
            return (Stage("tower", shape.tower_last, keep=budget.count(shape.patches)),)
        return (Stage("projected", keep=budget.count(shape.tokens)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The tokens that `choose` makes of the scores."""
        assert stage.keep is not None
        rows = taps.span_of(taps.hidden(stage.layer).float().transpose(1, 2)).transpose(2, 3)
        alike = similarity(rows)
        scores = self.centrality(alike)
        if self.choose == "mmr":
            relevance = self.balance * scores / scores.amax(-1, keepdim=True)
            margin = relevance[..., None, :] - (1 - self.balance) * alike
            picked = diverse(margin, relevance, stage.keep, "max-min")
            return Selection(indices=ascending(picked))
        scores = scores if self.choose == "top" else -scores
        return Selection(indices=top_k(scores, stage.keep), scores=scores)

    def centrality(self, alike: Tensor) -> Tensor:
        """`[...,N]` fp32 scores, 1 on average, of similarities `[...,N,N]`."""
        edges = alike if self.threshold is None else (alike >= self.threshold).float()
        degree = edges.sum(-1)
        if self.mode == "degree":
            return degree / degree.mean(-1, keepdim=True)
        walk = edges / degree[..., None]  # of a symmetric graph, M^T p is (p / deg) S
        scores = torch.ones_like(degree)[..., None, :]
        for _ in range(self.iterations):
            scores = self.damping + (1 - self.damping) * (scores @ walk)
        return scores[..., 0, :]


def similarity(rows: Tensor) -> Tensor:
    """Cosines of rows `[...,N,C]` with each other, no less than 0; `[...,N,N]` fp32."""
    rows = normalize(rows, dim=-1)
    return (rows @ rows.transpose(-1, -2)).relu()


METHOD = LexRank
