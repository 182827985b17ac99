"""Bilinear pooling of a grid of patches, as a constant matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from exporter.reducer import Grid


def pooled_grid(grid: Grid) -> Grid:
    """Half as many rows and columns, rounded up."""
    return Grid(math.ceil(grid.rows / 2), math.ceil(grid.cols / 2))


def pooling_matrix(grid: Grid) -> Tensor:
    """`[n,N]` fp32: `matrix @ rows` is `interpolate(size=half, mode="bilinear")` of N rows on `grid`."""
    each = torch.eye(grid.rows * grid.cols).reshape(-1, 1, grid.rows, grid.cols)
    half = torch.nn.functional.interpolate(each, size=tuple(pooled_grid(grid)), mode="bilinear")
    return half.flatten(1).T.contiguous()
