"""Density peaks: rows in the middle of many others, far from any row that is in the middle of more."""

from __future__ import annotations

import torch
from torch import Tensor


def distances(rows: Tensor) -> Tensor:
    """Squared Euclidean distances of `[...,M,D]` divided by D, fp32 `[...,M,M]`; 0 from a row to itself."""
    lengths = rows.square().sum(-1)
    apart = lengths.unsqueeze(-1) + lengths.unsqueeze(-2) - 2 * (rows @ rows.transpose(-1, -2))
    others = 1 - torch.eye(rows.shape[-2])
    return apart.clamp(min=0) * others / rows.shape[-1]


def peaks(rows: Tensor, neighbours: int) -> Tensor:
    """`delta rho` of rows `[...,M,D]`, fp32 `[...,M]`.

    With `D_ij` the distance over `sqrt(D)`, itself included: `rho_i = exp(-mean of the smallest D_ij^2)`, over
    `neighbours` of them, or all; `delta_i` the least D_ij to a denser row, or the largest of all distances.
    """
    squares = distances(rows.float())
    nearest = torch.topk(squares, min(neighbours, rows.shape[-2]), dim=-1, largest=False).values
    density = torch.exp(-nearest.mean(-1))
    apart = squares.sqrt()
    farthest = apart.amax((-2, -1), keepdim=True)
    denser = density.unsqueeze(-2) > density.unsqueeze(-1)
    return torch.where(denser, apart, farthest).amin(-1) * density
