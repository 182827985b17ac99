"""Windows that tile a grid of patches, and how alike the patches in each are."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.slots import EMPTY
from exporter.reducer import Grid
from exporter.select import ranks


def windows(grid: Grid, sides: Grid) -> Tensor:
    """`[N]` int64: the window that every patch lies in, both row-major."""
    down, right = torch.arange(grid.rows) // sides.rows, torch.arange(grid.cols) // sides.cols
    return (down[:, None] * (grid.cols // sides.cols) + right).flatten()


def similarity(rows: Tensor, grid: Grid, sides: Grid) -> Tensor:
    """`[B,I,N/size]` fp32: mean cosine of different patches in each window, of rows `[B,I,N,C]`.

    The sum over all ordered pairs is the squared length of the sum of unit rows; a patch with itself makes 1.
    """
    unit = rows / rows.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-8)
    tiles = (grid.rows // sides.rows, sides.rows, grid.cols // sides.cols, sides.cols)
    together = unit.reshape(*rows.shape[:2], *tiles, rows.shape[-1]).sum((3, 5)).square().sum(-1).flatten(2)
    size = sides.rows * sides.cols
    return (together - size) / (size * (size - 1))


def mended(rows: Tensor, grid: Grid, sides: Grid, keep: int, threshold: float | None) -> tuple[Tensor, Tensor]:
    """The last patch of each row that is left, int64 `[B,I,keep]`, and what it mixes, `[B,I,keep,N]`.

    The most alike windows of rows `[B,I,N,C]` become one row each, their mean; so many that `keep` rows are left, or
    all from `threshold` on, and what slots that leaves is empty. They come first, then all other patches.
    """
    patches, size, alike = torch.arange(rows.shape[2]), sides.rows * sides.cols, similarity(rows, grid, sides)
    count = torch.tensor((len(patches) - keep) // (size - 1))
    if threshold is not None:
        count = (alike >= threshold).sum(-1, keepdim=True)
    place = ranks(alike)[..., windows(grid, sides)]  # of each patch's window, the most alike first
    merged = place < count
    single = (~merged).to(torch.int64).cumsum(-1) - 1
    slot = torch.where(merged, place, count + single)
    holds = slot.unsqueeze(-2) == torch.arange(keep)[:, None]
    weight = torch.where(merged, 1 / size, 1.0).unsqueeze(-2)
    return torch.where(holds, patches, EMPTY).amax(-1), holds * weight
