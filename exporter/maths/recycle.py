"""Dropped tokens that come back as a few: the mean of each cluster among those that were nearly kept (SparseVLM)."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.cluster import members
from exporter.maths.density import distances, peaks
from exporter.select import gather_rows, ranked

EPSILON = 1e-6  # added to the number of members


def recycled(rows: Tensor, chosen: Tensor, clusters: int) -> Tensor:
    """`mix` `[...,C,N]` of rows `[...,N,D]`: means of the `clusters` clusters of the `chosen` `[...,M]` int64.

    Density peaks with as many neighbours as clusters; the highest is the first cluster.
    """
    picked = gather_rows(rows.float(), chosen)
    centres = ranked(peaks(picked, clusters), clusters)
    joined = members(distances(picked), torch.ones(chosen.shape) > 0, centres)
    shares = joined / (joined.sum(-1, keepdim=True) + EPSILON)
    empty = torch.zeros(*shares.shape[:-1], rows.shape[-2])
    return empty.scatter(-1, chosen.unsqueeze(-2).expand(shares.shape), shares)
