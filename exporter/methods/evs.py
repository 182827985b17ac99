"""EVS: keep the video tokens that differ most from the same place one frame before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.frames import cosine, frames
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import top_k

FIRST = 255.0  # what the authors' code gives the first frame, above any dissimilarity


@dataclass(frozen=True)
class EVS(Reducer):
    """The first frame whole, then the tokens whose cosine with the frame before them is the smallest.

    `d[t,i] = 1 - cos(x[t,i], x[t-1,i])` fp32, `d[0,i] = 255`; the K largest d of the whole video stay, in their
    original order. A frame is compared with the one before it whether that was kept or not. Where a token has a place
    in time, row and column it keeps that; one-dimensional positions are numbered anew. Budget: tokens of the whole
    video, of which the first frame is the least.

    Attributes:
        q: vLLM's `--video-pruning-rate`, 0 to 1: `K = max(L, int(T L (1 - q)))` instead of what --keep says.

    Raises:
        ValueError: q is outside [0, 1).

    Source: *Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference*, arXiv 2510.14624,
    as vLLM has it.

    """

    title = "EVS"
    paper = "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference"
    arxiv = "2510.14624"
    needs = frozenset({"video"})
    differences = (
        "text goes on where it would without pruning; vLLM's M-RoPE puts it at the video's base plus the grid's width",
        "cosines in fp32: tokens of a still picture that tie in bf16 may rank otherwise; ties go to the lower index",
        "one video at a time: no similarity threshold and no memory of an earlier chunk",
    )

    q: float | None = None

    def __post_init__(self) -> None:
        """Check the rate."""
        if self.q is not None and not (isinstance(self.q, float | int) and 0 <= self.q < 1):
            raise ValueError(f"q is a rate of pruning from 0 to below 1, not {self.q}")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut of the whole video, never below one frame."""
        asked = budget.count(shape.tokens) if self.q is None else int(shape.tokens * (1 - self.q))
        return (Stage("projected", keep=max(shape.patches, asked)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The first frame and the `keep - L` tokens behind it that differ most."""
        scores = dissimilarity(frames(taps))
        assert stage.keep is not None
        first = taps.shape.patches
        kept = torch.arange(first).expand(scores.shape[0], 1, -1)
        if stage.keep > first:
            kept = torch.cat([kept, first + top_k(scores[..., first:], stage.keep - first)], -1)
        return Selection(indices=kept, scores=scores)


def dissimilarity(video: Tensor) -> Tensor:
    """`[B,1,F*L]` fp32 of rows `[B,F,L,D]`."""
    moved = 1 - cosine(video[:, 1:], video[:, :-1])
    first = torch.full_like(video[:, :1, :, 0], FIRST)
    return torch.cat([first, moved], 1).flatten(1)[:, None]


METHOD = EVS
