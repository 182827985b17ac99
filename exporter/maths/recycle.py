"""Dropped tokens that come back as a few: the mean of each cluster among those that were nearly kept (SparseVLM)."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.cluster import members
from exporter.maths.density import distances
from exporter.select import gather_rows, ranked

EPSILON = 1e-6  # added to the number of members


def recycled(rows: Tensor, chosen: Tensor, clusters: int) -> Tensor:
    """`mix` `[...,C,N]` of rows `[...,N,D]`: means of the `clusters` clusters of the `chosen` `[...,M]` int64.

    Density peaks with as many neighbours as clusters; the highest is the first cluster.
    """
    squares = distances(gather_rows(rows.float(), chosen))
    squares = (squares + squares.transpose(-1, -2)) / 2  # the same bits both ways, so that ties are ties
    centres = ranked(_heights(squares, clusters), clusters)
    joined = members(squares, torch.ones(chosen.shape) > 0, centres)
    shares = joined / (joined.sum(-1, keepdim=True) + EPSILON)
    empty = torch.zeros(*shares.shape[:-1], rows.shape[-2])
    return empty.scatter(-1, chosen.unsqueeze(-2).expand(shares.shape), shares)


def _heights(squares: Tensor, neighbours: int) -> Tensor:
    """`density.peaks` where of equal densities the earlier one counts as the larger.

    Two rows that are each other's nearest are equally dense with two neighbours: only one may be a peak.
    """
    density = torch.exp(-torch.topk(squares, neighbours, dim=-1, largest=False).values.mean(-1))
    mine, other, place = density.unsqueeze(-1), density.unsqueeze(-2), torch.arange(density.shape[-1])
    denser = (other > mine) | ((other == mine) & (place < place[:, None]))
    apart = squares.sqrt()
    return torch.where(denser, apart, apart.amax((-2, -1), keepdim=True)).amin(-1) * density
