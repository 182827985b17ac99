"""Recoverable Compression: what [CLS] attends to, what the question is about, and the rest in a few merged rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.budget import Budget
from exporter.methods.prumerge import projections
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import gather_rows, marked, ranked, top_k

PULL = 50.0  # weight of the text beside a cosine of keys, the authors'
FAR = 1e4  # below every such sum


@dataclass(frozen=True)
class Recoverable(Reducer):
    """Keep the patches that [CLS] attends to most, recover those most like the question, cluster what is left.

    `a = softmax(q_cls k^T / sqrt(C))` over all tokens, the projections of the layer behind the one that the projector
    reads taken as one head of width C; `t_j = cos(question, patch_j) / sqrt(P)` in CLIP's common space, the patch as it
    leaves that layer, without the last norm. All fp32. The largest a stay, then the largest t of the others, together
    in their original order. Of what is left, the largest a are centres, largest first: each becomes
    `x_i + sum_j a_j x_j` over the `neighbours` others j of the largest `cos(k_i, k_j) + 50 t_j`. The last row is the
    sum of `a_j x_j` over all that is left and no centre. Rows are numbered anew. Budget: rows per view, merged ones
    included.

    Attributes:
        split: patches by attention, patches by text, centres; of K rows each takes its share, and one is the last row.
            Where there is no room for a centre, there is no last row either.
        neighbours: patches added to each centre, at most all that are left.
        bit_faithful: compare keys as the authors' code does, which takes the key of patch j for the j-th that is left.

    Source: *Recoverable Compression: A Multimodal Vision Token Recovery Mechanism Guided by Text Information*,
    AAAI 2025.
    """

    title = "Recoverable Compression"
    paper = "Recoverable Compression: A Multimodal Vision Token Recovery Mechanism Guided by Text Information"
    needs = frozenset({"cls", "clip"})
    differences = (
        "counts are shares of the budget (32, 24, 7 and 1 of 64: ours); the authors' code counts each score's outliers",
        "centres and neighbours are compared by their own keys; --param bit_faithful=true compares as published",
        "the question is its first CLIP segment, at its end of text; the authors' code reads the last padded place",
        "the patches' place in CLIP's space comes from the one tower; the authors' code runs a second copy of it",
        "where the projector reads the tower's last layer, attention, keys and patches are those of that layer (ours)",
    )

    split: str = "32/24/7"
    neighbours: int = 32
    bit_faithful: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{1,4}/\d{1,4}/\d{1,4}", self.split) or not any(self.parts[:2]):
            raise ValueError(f"split {self.split} is not VISUAL/TEXT/CENTRES with patches to keep, such as 32/24/7")
        if self.neighbours < 1:
            raise ValueError(f"neighbours {self.neighbours} is less than 1")

    @property
    def parts(self) -> tuple[int, ...]:
        """The numbers of `split`."""
        return tuple(map(int, self.split.split("/")))

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used."""
        keep = budget.count(shape.patches)
        centres = max(0, min(_share(keep, self.parts[2], sum(self.parts) + 1), keep - 2))
        extra = centres + 1 if centres else 0
        return (Stage("tower", shape.tower_last, keep=keep - extra, extra=extra),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The patches of both scores, and the matrix that merges the others."""
        assert stage.keep is not None
        layer = min(stage.layer + 1, taps.shape.tower_layers - 1)
        attention, keys = projections(taps, layer)
        text = self.relevance(taps, layer)
        visual = _share(stage.keep, self.parts[0], sum(self.parts[:2]))
        main = _best(attention, visual)
        main = main + _best(text - FAR * main, stage.keep - visual)
        mix = self.merged(main, attention, keys, text, stage) if stage.extra else None
        return Selection(indices=top_k(main, stage.keep), mix=mix)

    def relevance(self, taps: Taps, layer: int) -> Tensor:
        """`[B,I,N]` fp32: likeness of each patch to the question."""
        rows = taps.span_of(taps.hidden(layer).transpose(1, 2)).transpose(2, 3)
        patches = normalize(taps.aligned(rows, norm=False).float(), dim=-1)
        question = normalize(taps.inputs["clip_text"][:, :1].float(), dim=-1)
        likeness: Tensor = (patches * question[:, None]).sum(-1) / patches.shape[-1] ** 0.5
        return likeness

    def merged(self, main: Tensor, attention: Tensor, keys: Tensor, text: Tensor, stage: Stage) -> Tensor:
        """`[B,I,extra,N]`: the centres with their neighbours, and all that is left beside the centres."""
        assert stage.keep is not None
        left = main.shape[-1] - stage.keep
        rest = top_k(-main, left)
        weights = gather_rows(attention, rest)[:, :, None]
        keys = normalize(keys[:, :, :left] if self.bit_faithful else gather_rows(keys, rest), dim=-1)
        chosen = ranked(weights[:, :, 0], stage.extra - 1)
        centres = (chosen[..., None] == torch.arange(left)).float()
        pull = PULL * gather_rows(text, rest)[:, :, None]
        alike = gather_rows(keys, chosen) @ keys.transpose(2, 3) + pull - FAR * centres
        near = marked(ranked(alike, min(self.neighbours, left - 1)), left)
        others = 1 - centres.sum(2, keepdim=True)
        local = torch.cat([centres + near * weights, others * weights], 2)
        return local @ (rest[..., None] == torch.arange(main.shape[-1])).float()


def _best(scores: Tensor, count: int) -> Tensor:
    """1.0 at the largest `count` scores, in all of `[...,n]`."""
    return marked(ranked(scores, count), scores.shape[-1]) if count else torch.zeros_like(scores)


def _share(total: int, part: int, whole: int) -> int:
    """`total * part / whole`, halves up."""
    return (2 * total * part + whole) // (2 * whole)


METHOD = Recoverable
