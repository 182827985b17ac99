"""What a question looks at: attention of the prompt's last token, or of all its text, over the tokens of a span."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.masks import last_place
from exporter.maths.words import behind
from exporter.reducer import Taps


def by_last(taps: Taps, layer: int) -> Tensor:
    """`[B,I,N]` fp32: attention of the last valid row in `layer`, mean over heads, the softmax over all keys."""
    return taps.span_of(taps.rows(layer, "last").mean(1))[:, :, 0]


def by_text(taps: Taps, layer: int) -> Tensor:
    """`[B,I,N]` fp32: the same, mean over all rows of text behind the span; zeros where there are none."""
    places, text = behind(taps)  # [B,R], [B,I,R]
    seen = taps.span_of(taps.rows(layer, places).mean(1))  # [B,I,R,N]
    return (text[:, :, None] @ seen)[:, :, 0] / text.sum(-1, keepdim=True).clamp(min=1)


def held(scores: Tensor, valid: Tensor) -> Tensor:
    """Of a span that is the whole prompt: `[B,1,n]` with the last token above all others, padding below them.

    `scores` are 0 or more.
    """
    place = torch.arange(scores.shape[-1])
    scores = torch.where(valid[:, None], scores, -1.0)
    return torch.where(place == last_place(valid)[:, None], scores.amax(-1, keepdim=True) + 1, scores)
