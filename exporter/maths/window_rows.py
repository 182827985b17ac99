"""The rows that windows leave of a video (HoliTom): still places around density peaks, moving tokens by attention."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.cluster import members, prominence
from exporter.maths.density import distances
from exporter.maths.patchwork import Patches
from exporter.maths.slots import EMPTY
from exporter.maths.windows import Windows, blend
from exporter.select import ranks

LOWEST = -3e38  # below any attention


def merged(video: Tensor, windows: Windows, counts: Tensor, neighbours: int, beta: float) -> Patches:
    """Of the still places of `[B,F,L,D]`, each a mean over its window, the highest peaks, `counts` `[B,H]` of them.

    With min(neighbours, count) neighbours. Every other place joins the nearest peak, which becomes
    `beta peak + (1 - beta) mean(joined)`.
    """
    squares, itself = distances(blend(windows.reach, video)), torch.eye(video.shape[2])
    centres = _numbered(ranks(prominence(squares, windows.still, neighbours, counts)) < counts.unsqueeze(-1))
    joined = members(squares, windows.still, centres) * (1 - itself)
    count = joined.sum(-1, keepdim=True)
    mixed = beta * itself + (1 - beta) * joined / count.clamp(min=1)
    return Patches(windows.heads, windows.reach, torch.where(count > 0, mixed, itself), centres)


def salient(attention: Tensor, windows: Windows, counts: Tensor) -> Patches:
    """The moving tokens of most attention `[B,F,L]`, `counts` `[B,F]` of each frame."""
    batch, views, length = attention.shape
    chosen = ranks(torch.where(windows.moving, attention, LOWEST)) < counts.unsqueeze(-1)
    frame, place = torch.eye(views).expand(batch, -1, -1), torch.eye(length).expand(batch, views, -1, -1)
    return Patches(list(range(views)), frame, place, _numbered(chosen))


def _numbered(chosen: Tensor) -> Tensor:
    """`[...,L]` int64: its own number where `[...,L]` bool is true."""
    return torch.where(chosen, torch.arange(chosen.shape[-1]), EMPTY)
