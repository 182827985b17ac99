"""Tokens of a video that merge into others: the targets, who joins which, and the rows that come of it."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.density import peaks
from exporter.maths.segments import Anchors
from exporter.maths.slots import packed
from exporter.select import gather_rows, ranks

NEIGHBOURS = 4
ITSELF, NEVER = 2.0, -2.0  # beyond any cosine


def targets(video: Tensor, rest: Tensor, anchors: Anchors, most: int) -> Tensor:
    """`[B,A,most]` int64: places in the video of each anchor's quota of the highest peaks, ascending, then -1.

    `video` `[B,F,L,D]`; `rest` `[B,F,M]` int64: the places in each frame that may be chosen.
    """
    frames = torch.tensor(anchors.frames)
    places = rest[:, frames]
    order = ranks(peaks(gather_rows(video[:, frames], places), NEIGHBOURS))
    chosen = packed(order < anchors.quota.unsqueeze(-1), most)
    found = gather_rows(places, chosen.clamp(min=0)) + frames[:, None] * video.shape[2]
    return torch.where(chosen < 0, -1, found)


def joining(video: Tensor, into: Tensor, reach: Tensor, free: Tensor) -> Tensor:
    """`[B,A*Q,F*L]`: 1.0 where a token joins a target: in each anchor that of the largest cosine, a target itself.

    `into` `[B,A,Q]` from `targets`, `reach` `[B,A,F]` bool as in `Anchors`, `free` `[B,F*L]`: 1.0 where a token merges.
    """
    rows = video.flatten(1, 2)
    rows = rows / rows.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    alike = gather_rows(rows, into.flatten(1).clamp(min=0)) @ rows.transpose(1, 2)
    alike = alike.reshape(*into.shape, rows.shape[1])
    place, slot = torch.arange(rows.shape[1]), into.unsqueeze(-1)
    alike = torch.where(slot == place, ITSELF, torch.where(slot < 0, NEVER, alike))
    nearest = alike.argmax(2, keepdim=True)
    joined = (nearest == torch.arange(into.shape[2])[:, None]) & (slot >= 0)
    allowed = reach[..., place // video.shape[2]].float() * free[:, None]
    return (joined * allowed[:, :, None]).flatten(1, 2)


def merging(kept: Tensor, into: Tensor, joined: Tensor, alpha: float) -> Tensor:
    """`[B,K,N]`: what each row of `kept` `[B,K]` is made of; one of `into` `[B,T]` of itself and those that joined it.

    `new = w target + (1 - w) mean(joined)` with `w = max(1 / (joined + 1), alpha)`.
    """
    same = (kept.unsqueeze(-1) == into.unsqueeze(1)).float()
    members = same @ joined
    count = members.sum(-1, keepdim=True)
    own = torch.where(count > 0, (1 / (count + 1)).clamp(min=alpha), 1.0)
    itself = kept.unsqueeze(-1) == torch.arange(joined.shape[-1])
    return own * itself + (1 - own) * members / count.clamp(min=1)
