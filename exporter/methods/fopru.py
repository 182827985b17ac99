"""FoPru: keep the patches, or the rows of patches, that stand out in the tower's attention map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from exporter.budget import Budget
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import scored_layer
from exporter.select import top_k


@dataclass(frozen=True)
class FoPru(Reducer):
    """Rank patches by attention received or given, whichever varies more over the view.

    `M` is the head mean of the patches' block of the map of the layer that the projector reads, fp32. `column[j]` is
    its mean over queries, `row[i]` over keys; a view is ranked by `column` if `Var(column) > Var(row)`, else by `row`.
    What stays keeps its order and is numbered anew. Budget: patches per view; with strategy `row` the nearest whole
    number of grid rows, at least one, so that the plan may hold another number than asked for.

    Attributes:
        strategy: `rank` keeps the best patches, `row` whole rows of the grid, those with the largest sums.
        input: `prob` ranks attention after the softmax over all tokens, `logit` the scaled products before it.

    Source: *FoPru: Focal Pruning for Efficient Large Vision-Language Models*, arXiv 2411.14164v1; its authors
    published no code, details are those of dongxianzhe/hydrainfer at d4d5f4f.
    """

    title = "FoPru"
    paper = "FoPru: Focal Pruning for Efficient Large Vision-Language Models"
    arxiv = "2411.14164v1"
    differences = (
        "its authors published no code: formulas are those of an independent serving engine",
        "probabilities are ranked by default (ours); that engine ranks what --param input=logit does",
        "strategy row takes any grid, not only square ones, and rounds the budget to whole rows",
        "towers without [CLS] (ours): the map's every row and column belongs to a patch, last global layer",
    )

    strategy: str = "rank"
    input: str = "prob"

    def __post_init__(self) -> None:
        if self.strategy not in {"rank", "row"}:
            raise ValueError(f"strategy {self.strategy} is neither rank nor row")
        if self.input not in {"prob", "logit"}:
            raise ValueError(f"input {self.input} is neither prob nor logit")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used."""
        keep, width = budget.count(shape.patches), shape.grid.cols
        if self.strategy == "row":
            keep = max(1, (2 * keep + width) // (2 * width)) * width
        return (Stage("tower", shape.tower_last, keep=keep),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The `keep` patches, or the rows that hold as many, with the largest significance."""
        assert stage.keep is not None
        scores = self.significance(taps, scored_layer(taps.shape, stage.layer))
        if self.strategy == "rank":
            return Selection(indices=top_k(scores, stage.keep), scores=scores)
        rows, cols = taps.shape.grid
        best = top_k(scores.reshape(*scores.shape[:2], rows, cols).sum(-1), stage.keep // cols)
        return Selection(indices=(best[..., None] * cols + torch.arange(cols)).flatten(-2))

    def significance(self, taps: Taps, layer: int) -> Tensor:
        """`[B,I,N]` fp32: attention received where it varies strictly more than attention given, else that."""
        first = int(taps.shape.has_cls)
        every = torch.arange(taps.valid.shape[1]).expand(taps.valid.shape)
        block = taps.rows(layer, every, logits=self.input == "logit").mean(1)[:, first:, first:]
        column, row = (taps.span_of(pad(block.mean(axis), (first, 0))) for axis in (1, 2))
        return torch.where(column.var(-1, keepdim=True) > row.var(-1, keepdim=True), column, row)


METHOD = FoPru
