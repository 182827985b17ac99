"""Zero-TPrune: PageRank on attention maps, after what is too similar to something important has gone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.counts import counts, falling
from exporter.maths.pagerank import attention_graph, importance, weighted_pagerank
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import scored_layer
from exporter.select import marked, ranked, top_k

PUBLISHED = (1, 3, 6, 9, 11)  # of 12 layers


@dataclass(frozen=True)
class ZeroTPrune(Reducer):
    """Prune behind several tower layers, in two steps each, by the layer's attention map A and its keys; fp32.

    Importance is `s <- A^T s`, repeated 32 times in the first quarter of the tower, 8 times in the middle and once in
    the last quarter, from uniform s in which [CLS] counts sqrt(n) times; over heads, the root mean square of those
    whose variance of `n s` is between `vmin` and `vmax`. First, the less important half by a single step is compared
    with the other half, and the patches with the largest cosine to any of them (keys, heads side by side) are dropped.
    Then the importance in the graph of what is left decides who stays, in the original order. [CLS] is never dropped.
    What stays is numbered anew. Budget: patches per view.

    Attributes:
        layers: 0-based layers to prune behind, such as `2,6,12,18,22`; by default 1,3,6,9,11 of 12, elsewhere those of
            the same depth.
        keeps: patches left behind each of them; by default the same share of them goes each time.
        drops: how many of those that go are dropped for similarity; by default half, rounded up.
        start: `cls`, or `uni` for a uniform start.
        vmin: least variance of a head.
        vmax: largest variance of a head.

    Source: *Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained
    Transformers*, arXiv 2305.17328.
    """

    title = "Zero-TPrune"
    paper = "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained Transformers"
    arxiv = "2305.17328"
    differences = (
        "no code was published: what follows the text where it is exact, and is ours where the next lines say so",
        "variance of heads is taken of scores whose mean is 1 (ours): of scores that sum to 1 no head would pass",
        "where no head passes the filter, all count (ours); rows are normalised anew after patches went (ours)",
        "layers and counts come from rules (ours); the paper searches for them by trial",
        "similarity is that of keys with all heads side by side (ours)",
        "towers without [CLS] (ours): uniform start; layers give way to the last before them that sees the whole view",
    )

    layers: str = ""
    keeps: str = ""
    drops: str = ""
    start: str = "cls"
    vmin: float = 0.01
    vmax: float = 0.7

    def __post_init__(self) -> None:
        for name in ("layers", "keeps", "drops"):
            counts(name, getattr(self, name))
        if self.start not in {"cls", "uni"}:
            raise ValueError(f"start {self.start} is neither cls nor uni")
        if not 0 <= self.vmin <= self.vmax:
            raise ValueError(f"vmin {self.vmin} and vmax {self.vmax} are no range of variances")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A cut behind each layer.

        Raises:
            UserError: a list that does not fit the tower, the other lists or the budget.
        """
        keep, places = budget.count(shape.patches), self.places(shape)
        allowed = shape.global_layers or range(shape.tower_last + 1)
        if list(places) != sorted(set(places)) or not set(places) <= set(allowed):
            known = f"from 0 to {shape.tower_last}" if isinstance(allowed, range) else f"among {allowed}"
            raise UserError(f"--param layers={self.layers}: give ascending layers {known}")
        share = keep / shape.patches
        by_rule = tuple(round(shape.patches * share ** (n / len(places))) for n in range(1, len(places) + 1))
        keeps = counts("keeps", self.keeps) or by_rule
        if len(keeps) != len(places) or not falling(keeps, shape.patches, keep):
            raise UserError(
                f"--param keeps={self.keeps}: give {len(places)} counts from {shape.patches} down to {keep}"
            )
        drops, before = counts("drops", self.drops), (shape.patches, *keeps)
        room = [min(b - a, b // 2) for a, b in zip(keeps, before, strict=False)]
        if drops and (len(drops) != len(room) or any(d > r for d, r in zip(drops, room, strict=True))):
            most = ",".join(map(str, room))
            raise UserError(f"--param drops={self.drops}: give {len(room)} counts, at most {most}")
        return tuple(Stage("tower", layer, keep=kept) for layer, kept in zip(places, keeps, strict=True))

    def places(self, shape: Shape) -> tuple[int, ...]:
        """The layers to prune behind."""
        if given := counts("layers", self.layers):
            return given
        first = min(shape.global_layers, default=0)
        scaled = [max(first, round(layer * shape.tower_last / PUBLISHED[-1])) for layer in PUBLISHED]
        return tuple(dict.fromkeys(scored_layer(shape, layer) for layer in scaled))

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Who is left when the similar and then the unimportant are gone."""
        assert stage.keep is not None
        graph = attention_graph(taps, stage.layer)
        rows = keys(taps, stage.layer)
        alive = torch.ones(rows.shape[:2])
        if drop := self._drop(taps.shape, stage, rows.shape[1]):
            alive = unlike(rows, self._importance(graph, alive, 1), drop)
        scores = self._importance(graph, alive, steps(stage.layer, taps.shape)) + (alive - 1)  # who went: below 0
        return Selection(indices=top_k(scores[:, None], stage.keep), scores=scores[:, None])

    def _drop(self, shape: Shape, stage: Stage, total: int) -> int:
        """How many go for similarity."""
        assert stage.keep is not None
        given = counts("drops", self.drops)
        return given[self.places(shape).index(stage.layer)] if given else (total - stage.keep + 1) // 2

    def _importance(self, graph: Tensor, alive: Tensor, times: int) -> Tensor:
        """`[B,N]` importance of the `alive` `[B,N]` patches among each other, with [CLS] where there is one."""
        first = graph.shape[-1] - alive.shape[-1]
        nodes = pad(alive, (first, 0), value=1.0)
        start = nodes
        if first and self.start == "cls":
            start = torch.cat([nodes.sum(-1, keepdim=True).sqrt(), alive], -1)
        scores = weighted_pagerank(graph, start, nodes, times)
        return importance(scores, nodes, self.vmin, self.vmax)[:, first:]


def steps(layer: int, shape: Shape) -> int:
    """How often the scores are passed on, by depth."""
    depth = 4 * layer / (shape.tower_last + 1)
    return 32 if depth < 1 else 1 if depth >= 3 else 8


def keys(taps: Taps, layer: int) -> Tensor:
    """`[B,N,C]`: keys of the span's tokens, heads side by side, at length 1."""
    flat = taps.qkv(layer).k.float().transpose(1, 2).flatten(2)
    return normalize(taps.span_of(flat.transpose(1, 2))[:, 0].transpose(1, 2), dim=-1)


def unlike(rows: Tensor, scores: Tensor, drop: int) -> Tensor:
    """1.0 where a token stays, `[B,N]`: of the less important half, those most like any of the others go."""
    total = scores.shape[-1]
    others = marked(ranked(scores, total - total // 2), total)
    alike = (rows @ rows.transpose(1, 2) - 4 * (1 - others)[:, None]).amax(-1)  # no cosine is below -1
    return marked(ranked(4 * others - alike, total - drop), total)


METHOD = ZeroTPrune
