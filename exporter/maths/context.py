"""What tokens are to the question of a prompt with several pictures: the last one and all that follows it (CATP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.maths.asked import by_last
from exporter.reducer import Taps
from exporter.select import gather_rows, marked, top_k


def asking(taps: Taps) -> Tensor:
    """`[B,I]` fp32: 1.0 for the last span that holds a picture, 0.0 for those before it and those that hold none."""
    there = taps.span_of(taps.valid.float())[..., 0]
    return there * (there.sum(1, keepdim=True) == there.cumsum(1)).float()


def rising(taps: Taps, layer: int, weight: float) -> Tensor:
    """`[B,I,N]` fp32: how much more the last row attends to a token in `layer` than in the one before it, 0 at least.

    To that, `weight` times the cosine of its hidden state to the mean of the asking picture and all rows behind it.
    """
    grown = by_last(taps, layer) - (by_last(taps, layer - 1) if layer else 0.0)
    states = taps.hidden(layer).float()
    start = (taps.span[..., 0] * asking(taps).to(torch.int64)).sum(1, keepdim=True)
    sample = (taps.valid & (torch.arange(states.shape[1]) >= start)).float()
    mean = (sample[:, None] @ states) / sample.sum(-1).clamp(min=1)[:, None, None]  # [B,1,C]
    return grown.relu() + weight * alike(rows_of(taps, states), mean[:, None])


def recalled(taps: Taps, layer: int, scores: Tensor, keep: int) -> Tensor:
    """`[B,I,N]` fp32: `scores`, in whose stead the asking picture has cosines to what the others keep by theirs.

    That is the mean of these tokens' states in `layer`. A picture without others has its scores.
    """
    rows = rows_of(taps, taps.hidden(layer).float())
    query = asking(taps)
    others = taps.span_of(taps.valid.float())[..., 0] * (1 - query)
    left = marked(top_k(scores, keep), scores.shape[-1]) * others[..., None]
    mean = torch.einsum("bin,binc->bc", left, rows)[:, None, None]  # a mean's length does not matter
    known = query * (others.sum(1, keepdim=True) > 0).float()
    return torch.where(known[..., None] > 0, alike(rows, mean), scores)


def alike(rows: Tensor, other: Tensor) -> Tensor:
    """`[B,I,N]` cosines of rows `[B,I,N,C]` to `[B,1,1,C]`."""
    return (normalize(rows, dim=-1) * normalize(other, dim=-1)).sum(-1)


def rows_of(taps: Taps, states: Tensor) -> Tensor:
    """`[B,I,N,C]`: the spans' rows of `[B,n,C]`."""
    return gather_rows(states, taps.span.flatten(1)).reshape(*taps.span.shape, -1)
