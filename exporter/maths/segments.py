"""Stretches of a video whose frames belong together, and the frames of each that stand for the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from exporter.maths.frames import cosine
from exporter.select import ranks


class Anchors(NamedTuple):
    """Frames that tokens of their segment merge into.

    `frames`: A of them, as far as is known beforehand; `quota` `[B,A]` int64: tokens of each; `reach` `[B,A,F]` bool:
    the frames whose tokens merge into it.
    """

    frames: list[int]
    quota: Tensor
    reach: Tensor


def uniform(frames: int, length: int) -> Tensor:
    """`[1,F,F]` bool: whether two frames share a segment when each has `length` frames, the last one maybe less."""
    segment = torch.arange(frames) // length
    return (segment[:, None] == segment)[None]


def dynamic(features: Tensor, least: int, threshold: float) -> Tensor:
    """`[B,F,F]` bool: whether two frames share a segment, of frame features `[B,F,C]`.

    A cut lies wherever neighbours are less alike than `threshold`, and at the `least - 1` least alike neighbours.
    """
    alike = cosine(features[:, :-1], features[:, 1:])
    cut = (ranks(-alike) < least - 1) | (alike < threshold)
    segment = torch.nn.functional.pad(cut.to(torch.int64).cumsum(-1), (1, 0))
    return segment.unsqueeze(-1) == segment.unsqueeze(-2)


def anchors(together: Tensor, frames: list[int], period: int, each: int) -> Anchors:
    """Every `period`-th frame from a segment's end, of the candidates `frames`, sharing `each` tokens a frame.

    A segment of n frames has `m = ceil(n / period)` anchors with `floor(each n / m)` tokens. One that has just its own
    share takes in its own frame alone.
    """
    index, own = torch.arange(together.shape[-1]), torch.eye(together.shape[-1])[frames] > 0
    members = together[:, frames]  # [B,A,F]
    behind = (members & (index > torch.tensor(frames)[:, None])).sum(-1)
    size = members.sum(-1)
    share = each * size // ((size + period - 1) // period)
    quota = share * (behind % period == 0)
    return Anchors(frames, quota, (members & (quota != each).unsqueeze(-1)) | own)
