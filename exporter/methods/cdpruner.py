"""CDPruner: keep the tokens that a determinantal point process, conditioned on the question, finds most likely."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.budget import Budget
from exporter.maths.greedy import diverse
from exporter.maths.similarity import mean_text
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending

MODES = ("paper", "openvino", "openvino-fallback")
EPSILON = 1e-6


@dataclass(frozen=True)
class CDPruner(Reducer):
    """Greedy maximum of `det L_Y` over sets Y of projected tokens, `L` a cosine kernel scaled by relevance.

    `paper`: `L_ij = r_i cos(x_i,x_j) r_j`; a is the negative mean cosine of a patch, through CLIP's post-norm and
    projection, with the question's segments in CLIP's text space, `r = (a - min a + 1e-6) / (max a - min a)` over all
    views; each view keeps as many. `openvino`: a is the cosine with the mean of the prompt's input embeddings, `r = (a
    - min a) / (max a - min a + 1e-6)`, `L = (1-w) cos + w r cos r`; `openvino-fallback`: `L = e cos e` with `e = exp(w
    / (2(1-w)) r)` (its ends: cos alone for w = 0, the paper's form for w = 1). Both OpenVINO modes, if `split`, treat
    the two halves of the list by themselves. Budget: `paper` patches per view, else tokens of a picture.

    Source: *Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs*,
    arXiv 2506.10967 (NeurIPS 2025), and its second implementation in OpenVINO GenAI.

    Attributes:
        mode: paper, openvino or openvino-fallback; paper needs CLIP's text tower, the others the prompt's embeddings.
        relevance_weight: w of the OpenVINO modes.
        split: whether those treat halves.

    """

    title = "CDPruner"
    paper = "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs"
    arxiv = "2506.10967"
    differences = (
        "the paper's balance theta is left out of mode paper, as in the authors' code",
        "a gain is at least 1e-6 under its square root; theirs turns NaN beyond the kernel's rank, OpenVINO adds 1e-6",
        "relevance that is the same everywhere is a constant, theirs divides by zero",
        "kernels are fp32 with ties to the lower index; OpenVINO computes in bf16 on some CPUs",
        "OpenVINO's GPU path, which pads odd halves, is left out",
        "positions are numbered anew; OpenVINO's text goes on behind the last kept row and column",
    )
    needs = frozenset({"clip"})

    mode: str = "paper"
    relevance_weight: float = 0.5
    split: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode}: choose from {', '.join(MODES)}")
        if not 0 <= self.relevance_weight <= 1:
            raise ValueError(f"relevance_weight={self.relevance_weight}: give a number from 0 to 1")
        if self.mode != "paper":
            object.__setattr__(self, "needs", frozenset({"text"}))

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """`paper`: relevance in the tower, then a cut behind the projector; the OpenVINO modes only cut."""
        if self.mode == "paper":
            keep = shape.views * budget.count(shape.patches)
            return Stage("tower", shape.tower_last), Stage("projected", keep=keep)
        return (Stage("projected", keep=budget.count(shape.tokens)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Relevance for later, or the likeliest tokens in their original order."""
        if stage.stack == "tower":
            return Selection(carry={"relevance": taps.span_of(clip_relevance(taps, stage.layer))})
        assert stage.keep is not None
        rows = taps.hidden(-1).float()
        picks = (
            self._of_views(taps, rows, stage.keep) if self.mode == "paper" else self._of_halves(taps, rows, stage.keep)
        )
        return Selection(indices=ascending(picks)[:, None])

    def _of_views(self, taps: Taps, rows: Tensor, keep: int) -> Tensor:
        """Picks of every view by itself, as places among all views' tokens: `[B,keep]`."""
        views, patches = taps.shape.views, taps.shape.patches
        places = torch.tensor(taps.shape.places or range(views * patches))
        relevance = spread(taps.carry["relevance"][:, 0].float(), above=EPSILON)[:, places]
        unit = normalize(rows, dim=-1)[:, places].reshape(-1, views, patches, rows.shape[2])
        kernel = conditioned(unit, relevance.reshape(-1, views, patches))
        return places[(likeliest(kernel, keep // views) + torch.arange(views)[:, None] * patches).flatten(1)]

    def _of_halves(self, taps: Taps, rows: Tensor, keep: int) -> Tensor:
        """Picks of each half of the list, or of all of it: `[B,keep]`."""
        total = rows.shape[1]
        meaning = openvino_unit(mean_text(taps))
        unit = openvino_unit(rows)
        alike = (unit * meaning[:, None]).sum(-1)
        cuts = [(0, total // 2, keep // 2), (total // 2, total, keep - keep // 2)]
        picks = [
            likeliest(self.openvino_kernel(unit[:, begin:end], alike[:, begin:end]), count) + begin
            for begin, end, count in (cuts if self.split and total > 1 else [(0, total, keep)])
            if count
        ]
        return torch.cat(picks, 1)

    def openvino_kernel(self, unit: Tensor, alike: Tensor) -> Tensor:
        """`[B,n,n]` from unit rows and their cosines `[B,n]` with the text."""
        weight, relevance = self.relevance_weight, spread(alike, below=EPSILON)
        if self.mode == "openvino":
            plain = conditioned(unit, torch.ones_like(relevance))
            return (1 - weight) * plain + weight * conditioned(unit, relevance)
        if 0 < weight < 1:
            relevance = (weight / (2 * (1 - weight)) * relevance).exp()
        return conditioned(unit, relevance if weight else torch.ones_like(relevance))


def clip_relevance(taps: Taps, layer: int) -> Tensor:
    """`[B,n]` fp32: the negative mean cosine of the tower's rows with the question's segments in CLIP's text space."""
    rows = normalize(taps.aligned(taps.hidden(layer), norm=True).float(), dim=-1)
    segments = normalize(taps.inputs["clip_text"].float(), dim=-1)
    weights = taps.inputs["clip_mask"].float()
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    return -torch.einsum("bnm,bm->bn", rows @ segments.transpose(1, 2), weights)


def spread(values: Tensor, above: float = 0.0, below: float = 0.0) -> Tensor:
    """`(x - min + above) / (max - min + below)` over the last axis."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return (values - low + above) / (high - low + below).clamp(min=EPSILON)


def conditioned(unit: Tensor, relevance: Tensor) -> Tensor:
    """`r_i (x_i . x_j) r_j`, `[...,n,n]`."""
    return relevance[..., :, None] * (unit @ unit.transpose(-1, -2)) * relevance[..., None, :]


def openvino_unit(rows: Tensor) -> Tensor:
    """Rows over `sqrt(|x|^2 + 1e-6)`."""
    return rows / (rows.square().sum(-1, keepdim=True) + EPSILON).sqrt()


def likeliest(kernel: Tensor, keep: int) -> Tensor:
    """Tokens of `[...,n,n]` in the order in which they are picked, `[...,keep]`."""
    return diverse(kernel, kernel.diagonal(dim1=-2, dim2=-1), keep, "determinant")


METHOD = CDPruner
