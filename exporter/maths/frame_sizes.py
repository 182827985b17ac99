"""How many tokens each frame of a video gets for its score, and the grid they form: what QuoTA shares out."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def shares(scores: Tensor) -> Tensor:
    """`(100 s)^2` of frame scores `[B,F]`, normalised to a sum of 1, fp32."""
    weights = (100.0 * scores.float()).square()
    return weights / weights.sum(-1, keepdim=True)


def capped(weights: Tensor, cap: float) -> Tensor:
    """Weights `[B,F]` cut to `cap`, the excess given in one pass from left to right to those below it.

    Each gets its part of the excess by its weight over the sum after cutting; what then passes the cap is cut too, and
    its excess goes to the frames behind it.
    """
    excess = (weights - cap).clamp(min=0).sum(-1)
    cut = weights.clamp(max=cap)
    total, found = cut.sum(-1), []
    for weight in cut.unbind(-1):
        grown = torch.where(weight < cap, weight + weight / total * excess, weight)
        excess = excess + (grown - cap).clamp(min=0)
        found.append(grown.clamp(max=cap))
    return torch.stack(found, -1)


def counts(weights: Tensor, total: int) -> Tensor:
    """`int(total w)` of each frame, int64 `[B,F]`."""
    return (weights * total).to(torch.int64)


def grids(count: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns `[B,F]` int64 of the nearly square grid that holds at most `count` tokens."""
    side = count.float().sqrt().to(torch.int64)
    return side + ((side + 1) * side <= count).to(torch.int64) * (count > 0), side


@cache
def spacings(of: int) -> tuple[tuple[int, ...], ...]:
    """For every count the entries of `torch.linspace(0, of - 1, count).long()`, then zeros to a length of `of`.

    A table, because that function rounds by the width of the machine's vectors. To be called before anything is traced.
    """
    lines = [torch.linspace(0, of - 1, count).long().tolist() for count in range(of + 1)]
    return tuple((*line, *[0] * (of - len(line))) for line in lines)


def bilinear(row: Tensor, size: Tensor, side: int) -> Tensor:
    """Weights `[...,side]` of the rows that row `row` of `size` is made of, corners not aligned."""
    source = ((row + 0.5) * side / size - 0.5).clamp(min=0)
    low = source.floor().clamp(max=side - 1)
    part = (source - low)[..., None]
    places, high = torch.arange(side), (low + 1).clamp(max=side - 1)
    return (places == low[..., None]) * (1 - part) + (places == high[..., None]) * part


def averaged(row: Tensor, size: Tensor, side: int) -> Tensor:
    """Weights `[...,side]` of adaptive average pooling."""
    first = torch.div(row * side, size, rounding_mode="floor")
    end = -torch.div(-(row + 1) * side, size, rounding_mode="floor")
    places = torch.arange(side)
    inside = (places >= first[..., None]) & (places < end[..., None])
    return inside / (end - first)[..., None].clamp(min=1)
