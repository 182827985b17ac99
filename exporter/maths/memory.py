"""What past requests looked at (VLA-Pruner): the history of attention, its sum, and a choice among candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.greedy import diverse
from exporter.maths.similarity import cosines
from exporter.select import ascending

TINY = torch.finfo(torch.float32).tiny
FAR = 4.0  # beyond any distance
NEVER = -1.0  # below any distance, and above what the search gives to those already picked


def remembered(history: Tensor, attended: Tensor, rows: Tensor) -> Tensor:
    """`[B,W,N]`: the history, the oldest entry first, with a new one, the mean of `rows` `[B,1]` in `attended` `[B,N]`.

    As it was where there are no rows.
    """
    entry = attended / rows.clamp(min=1)
    shifted = torch.cat([history[:, 1:], entry[:, None]], 1)
    return torch.where(rows[:, :, None] > 0, shifted, history)


def guide(history: Tensor, gamma: float) -> Tensor:
    """`[B,N]` of sum 1: entries of `[B,W,N]` added up, the newest times `gamma^(W-1)`, the oldest times 1."""
    total = torch.zeros_like(history[:, 0])
    for power in reversed(range(history.shape[1])):  # the authors' order: values are rounded to bf16 afterwards
        total = total + gamma**power * history[:, power]
    return total / total.sum(-1, keepdim=True).clamp(min=TINY)


def unlike(rows: Tensor, candidates: Tensor, keep: int) -> Tensor:
    """`[...,keep]` int64 ascending: candidates `[...,N]` bool that are far apart, by 1 - cosine of rows `[...,N,D]`.

    First the one whose nearest other candidate is farthest, then one by one the farthest from all chosen ones.
    """
    apart = 1 - cosines(rows)
    among = torch.where(candidates[..., None], apart, FAR)
    nearest = torch.topk(among, 2, dim=-2, largest=False).values[..., 1, :]
    start = torch.where(candidates, nearest, NEVER)
    distances = torch.where(candidates[..., None, :], apart, NEVER)
    return ascending(diverse(distances, start, keep, "max-min"))
