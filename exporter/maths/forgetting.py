"""Attention that is summed up with a forgetting factor: weights of the queries, and a cache simulated by masks."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.eviction import counted, places
from exporter.select import ranked


def forgetting(valid: Tensor, alpha: float) -> Tensor:
    """`alpha ** age` of each token of `[B,n]` bool, 1 for the last one of its sequence: fp32, 0 for padding."""
    age = (counted(valid) - 1 - places(valid)).clamp(min=0)
    return alpha ** age.float() * valid.float()


def simulated(logits: Tensor, streaming: int, select: int, recent: int, alpha: float) -> Tensor:
    """The tokens that each query finds if one is evicted after each, once there are more than the budget.

    `logits` `[B,H,S,S]` are causal and not evicted from; returns bool of that shape. After row t, from the budget on,
    `A = alpha A + row` with the row over what is alive summing to 1, and the smallest A among tokens `streaming` to
    `t - recent` goes. S steps are unrolled.
    """
    rows, length = logits.float().softmax(-1), logits.shape[-1]
    score, alive, found = torch.zeros(rows[:, :, 0].shape), torch.ones(rows[:, :, 0].shape), list[Tensor]()
    place = torch.arange(length)
    for step in range(length):
        found.append(alive)
        row = rows[:, :, step] * alive
        full = step >= streaming + select + recent
        score = alpha * score + (row / row.sum(-1, keepdim=True) if full else row)
        if full:
            among = (place >= streaming) & (place <= step - recent)
            victim = ranked(torch.where(among & (alive > 0), -score, -torch.inf), 1)
            alive = torch.where(place == victim, 0.0, alive)
    return torch.stack(found, 2) > 0
