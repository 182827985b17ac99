"""PruMerge: the patches that [CLS] attends to most, each with its nearest others added, and one row of all the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from engines.errors import UserError
from exporter.budget import Budget
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import scored_layer
from exporter.select import gather_rows, marked, ranked


@dataclass(frozen=True)
class PruMerge(Reducer):
    """Rank patches by the [CLS] query of the layer behind the one that the projector reads, then merge by its keys.

    `a = softmax(q_cls k^T / sqrt(C))` over all tokens, the projections as one head of width C, fp32. The largest come
    first, in descending order. To each kept row x_i the `neighbours` patches j with the most similar keys (cosine) are
    added, `x_i + sum_j a_j x_j`; the last row is the sum of `a_j x_j` over all that were not kept. Rows are numbered
    anew. Budget: rows per view, the last one included.

    Attributes:
        neighbours: patches added to each kept one.

    Source: *LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models*, arXiv 2403.15388.
    """

    title = "PruMerge"
    paper = "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models"
    arxiv = "2403.15388"
    differences: ClassVar[tuple[str, ...]] = (
        "the number of rows is the budget; the authors' code counts outliers of the attention, anew for each picture",
        "scores are fp32 and ties go to the lower index; the authors' code ranks in the tower's dtype",
        "where the projector reads the tower's last layer, queries and keys are those of that layer (ours)",
        "towers without [CLS] (ours): the mean over the queries of all patches, last global layer",
    )

    neighbours: int = 32

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours {self.neighbours} is less than 1")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used.

        Raises:
            UserError: fewer other patches than neighbours, or the budget cannot be met.
        """
        keep = budget.count(shape.patches)
        if self.neighbours >= shape.patches:
            raise UserError(
                f"--param neighbours={self.neighbours}: a patch has {shape.patches - 1} others in this tower; "
                f"give at most {shape.patches - 1}"
            )
        return (Stage("tower", shape.tower_last, keep=keep - 1, extra=1),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The kept patches and the matrix that merges into them and into the last row."""
        assert stage.keep is not None
        layer = scored_layer(taps.shape, min(stage.layer + 1, taps.shape.tower_layers - 1))
        attention, keys = projections(taps, layer)
        if not stage.keep:
            return Selection(mix=attention[:, :, None], mix_rows=(0,))
        indices = self.order(attention, stage.keep)
        rows = tuple(range(stage.keep + 1))
        return Selection(indices=indices, mix=self.mix(attention, keys, indices), mix_rows=rows)

    def order(self, attention: Tensor, keep: int) -> Tensor:
        """`[B,I,keep]` int64: what is kept, as it is handed on."""
        return ranked(attention, keep)

    def mix(self, attention: Tensor, keys: Tensor, indices: Tensor) -> Tensor:
        """`[B,I,keep+1,N]`: the kept rows with their neighbours, then the rest; a blank's row is zero."""
        length = attention.shape[-1]
        itself = (indices[..., None] == torch.arange(length)).float()
        keys = normalize(keys, dim=-1)
        alike = gather_rows(keys, indices.clamp(min=0)) @ keys.transpose(2, 3) - 4 * itself  # no cosine is below -1
        near = marked(ranked(alike, self.neighbours), length) * itself.sum(-1, keepdim=True)
        rest = 1 - itself.sum(2, keepdim=True)
        return torch.cat([itself + near * attention[:, :, None], rest * attention[:, :, None]], 2)


def projections(taps: Taps, layer: int) -> tuple[Tensor, Tensor]:
    """`[B,I,N]` attention of [CLS] and `[B,I,N,C]` keys of a layer, its heads side by side, before any rotation."""
    q, k, _ = (part.float().transpose(1, 2).flatten(2) for part in taps.qkv(layer, rope=False))
    q = q[:, :1] if taps.shape.has_cls else q
    attention = (q @ k.transpose(1, 2) / k.shape[-1] ** 0.5).softmax(-1).mean(1)
    return taps.span_of(attention), taps.span_of(k.transpose(1, 2)).transpose(2, 3)


METHOD = PruMerge
