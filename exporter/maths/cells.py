"""What goes leaves something behind: the lowest tokens of each square cell merge into the best of them (VFlowOpt)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.reducer import Grid, Shape
from exporter.select import gather_rows, marked, top_k

LOW, HIGH = -4.0, 4.0  # below and above any importance


def fields(shape: Shape) -> tuple[Grid, ...]:
    """The grids, row-major, of which the list behind the projector is made: the whole picture, the canvas of tiles.

    Where views do not stand on one canvas, each is a grid of its own.
    """
    grid, views = shape.grid, shape.views
    if not shape.places or grid.rows == 1:
        return (grid,) * views
    first = grid.rows * grid.cols  # of the first tile
    width = shape.places[first + grid.cols] - shape.places[first]
    return grid, Grid((views - 1) * grid.rows * grid.cols // width, width)


def cells(grids: Sequence[Grid], side: float) -> tuple[int, ...]:
    """The square cell of each token, counted on from grid to grid: `(floor(row / side), floor(column / side))`."""
    found, before = list[int](), 0
    for rows, cols in grids:
        across = math.floor((cols - 1) / side) + 1
        found += [
            before + math.floor(row / side) * across + math.floor(col / side)
            for row in range(rows)
            for col in range(cols)
        ]
        before = found[-1] + 1
    return tuple(found)


def condensed(importance: Tensor, cell: Sequence[int], keep: int, plain: int) -> tuple[Tensor, Tensor]:
    """Of `importance` `[B,n]`: indices `[B,keep]` int64, ascending, and `mix` `[B,keep,n]`, what these rows become.

    The `plain` largest stay as they are. In each cell the others merge into the first of the most important among them,
    weighted by importance. Where cells have no others, the next best stay beside these, as they are.
    """
    places = torch.arange(len(cell))
    where = torch.tensor(cell)
    stays = marked(top_k(importance, plain), len(cell)) if plain else torch.zeros_like(importance)
    member = (where == torch.arange(max(cell) + 1)[:, None]).float()
    pool = member * (1 - stays)[:, None]  # [B,C,n]
    best = torch.where(pool > 0, importance[:, None], LOW).argmax(-1, keepdim=True)
    heads = ((best == places) & (pool > 0)).float().sum(1)
    kept = top_k(importance + HIGH * (stays + heads), keep)
    weight = pool * importance[:, None]
    total = weight.sum(-1, keepdim=True)
    share = weight / torch.where(total == 0, 1.0, total)
    merged = gather_rows(share, where[kept])
    own = (kept[..., None] == places).float()
    return kept, torch.where(gather_rows(heads, kept)[..., None] > 0, merged, own)
