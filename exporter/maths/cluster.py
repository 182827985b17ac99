"""Clusters around density peaks (DPC-kNN) among the rows that take part, of a number that only the data may know."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.select import gather_rows

FAR = 1e30  # beyond any distance, and finite: TopK and ArgMin meet it
ABSENT = -1.0  # below any score


def prominence(squares: Tensor, active: Tensor, neighbours: int, limit: Tensor | None = None) -> Tensor:
    """`delta rho` of the active rows, fp32 `[...,M]`; `ABSENT` of all others.

    `squares` `[...,M,M]`: D_ij^2, see `density.distances`; `active` `[...,M]` bool; k is `neighbours`, at most
    `limit` `[...]` int64, at most all. `rho_i = exp(-mean of the k smallest D_ij^2)`, itself included; `delta_i` the
    least D_ij to a denser row, or the largest of all distances: `density.peaks` of the active rows alone.
    """
    both = active.unsqueeze(-1) & active.unsqueeze(-2)
    count = active.sum(-1)
    count = count if limit is None else torch.minimum(count, limit)
    most = min(neighbours, squares.shape[-1])
    count = count.clamp(min=1, max=most).unsqueeze(-1)
    nearest = torch.topk(torch.where(both, squares, FAR), most, dim=-1, largest=False).values
    nearest = torch.where(torch.arange(most) < count.unsqueeze(-1), nearest, 0.0)
    density = torch.exp(-nearest.sum(-1) / count)
    apart = squares.sqrt()
    farthest = torch.where(both, apart, 0.0).amax((-2, -1), keepdim=True)
    denser = density.unsqueeze(-2) > density.unsqueeze(-1)  # never an absent row: its density is 0
    return torch.where(active, torch.where(denser, apart, farthest).amin(-1) * density, ABSENT)


def members(squares: Tensor, active: Tensor, centres: Tensor) -> Tensor:
    """1.0 where active row m belongs to cluster c, that of the nearest centre: fp32 `[...,C,M]`.

    `centres` `[...,C]` int64 into the rows, negative: none. A centre belongs to itself; ties go to the first cluster.
    """
    place = centres.unsqueeze(-1)
    itself = place == torch.arange(squares.shape[-1])
    apart = gather_rows(squares, centres.clamp(min=0))
    apart = torch.where(itself, -1.0, torch.where(place < 0, FAR, apart))
    nearest = apart.argmin(-2, keepdim=True) == torch.arange(centres.shape[-1])[:, None]
    return (nearest & (place >= 0) & active.unsqueeze(-2)).float()
