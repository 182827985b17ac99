"""What the methods for video share: the rows of all frames behind the projector, and how alike two rows are."""

from __future__ import annotations

from torch import Tensor

from exporter.reducer import Taps

EPSILON = 1e-8


def frames(taps: Taps) -> Tensor:
    """The projected rows of a video, frame by frame: `[B,F,L,D]` fp32."""
    rows = taps.hidden(-1).float()
    return rows.reshape(rows.shape[0], taps.shape.views, taps.shape.patches, rows.shape[-1])


def cosine(left: Tensor, right: Tensor, epsilon: float = EPSILON) -> Tensor:
    """`a.b / (max(|a|, epsilon) max(|b|, epsilon))` over the last axis, which goes."""
    lengths = [rows.square().sum(-1).sqrt().clamp(min=epsilon) for rows in (left, right)]
    return (left * right).sum(-1) / (lengths[0] * lengths[1])
