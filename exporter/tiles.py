"""Pictures of any resolution as LLaVA-NeXT cuts them: the whole picture, then tiles of a canvas, stitched together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.form import Asked, Form, pair
from exporter.reducer import Grid
from exporter.section import Section
from exporter.select import ranked

MOST_TILES = 64


def tile_grids(config: Section, tile: int) -> list[Grid]:
    """Rows and columns of tiles for every resolution that a config allows, in its order.

    Raises:
        UserError: `image_grid_pinpoints` is no list of resolutions that tiles of `tile` pixels fill.
    """
    key, found = "image_grid_pinpoints", list[Grid]()
    points = config.get(key)
    for point in points if isinstance(points, list) else [None]:
        sides = list(point) if isinstance(point, (list, tuple)) else []
        if len(sides) != 2 or not all(type(side) is int and side > 0 and side % tile == 0 for side in sides):
            raise config.wrong(key, f"holds {point}: each must be a height and a width, multiples of {tile}")
        found.append(Grid(sides[0] // tile, sides[1] // tile))
    if not found or max(grid.rows * grid.cols for grid in found) > MOST_TILES:
        raise config.wrong(key, f"must hold resolutions of at most {MOST_TILES} tiles")
    return list(dict.fromkeys(found))


def tile_forms(allowed: Sequence[Grid], tile: int, asked: Asked) -> tuple[Form, ...]:
    """One form for each grid, in the config's order: all, or those asked for.

    Raises:
        UserError: a grid that the checkpoint does not allow.
    """
    wanted = {Grid(*pair("--grid", text)): text for text in asked.grids}
    for grid, text in wanted.items():
        if grid not in allowed:
            known = ", ".join(f"{each.rows}x{each.cols}" for each in allowed)
            raise UserError(f"--grid {text}: the checkpoint allows {known} (rows x columns of tiles)")
    chosen = [grid for grid in allowed if grid in wanted or not wanted]
    return tuple(
        Form(
            part="vision" if len(chosen) == 1 else f"vision.{grid.rows}x{grid.cols}",
            size=(tile, tile),
            views=1 + grid.rows * grid.cols,
            tiles=(grid.rows, grid.cols),
        )
        for grid in chosen
    )


def canvas_places(grid: Grid, tiles: tuple[int, int]) -> Tensor:
    """`[tiles*N]` int64: where each patch of each tile stands on the canvas, row-major."""
    rows, cols = tiles
    places = torch.arange(rows * cols * grid.rows * grid.cols)
    return places.reshape(rows, grid.rows, cols, grid.cols).transpose(1, 2).flatten()


def stitched(kept: Tensor, grid: Grid, tiles: tuple[int, int]) -> Tensor:
    """The order of a picture's rows, int64 `[B,V*k]` into the rows view after view.

    First the whole picture's rows as they are. Then the patches of all tiles, row-major over the canvas; then rows
    that stand in front of their tile's patches without being one ([CLS]), tile after tile; then the other merged
    ones, tile after tile; at last empty slots. LLaVA-NeXT's `spatial` order as VisionZip (arXiv 2412.04467) has it.

    Args:
        kept: `[B,V,k]` int64 patch numbers within each view; -1: merged or made; -2: an empty slot.
        grid: patches of one view.
        tiles: rows and columns of tiles.
    """
    width, count, patches = kept.shape[2], tiles[0] * tiles[1], grid.rows * grid.cols
    slots = torch.arange(count * width)
    made = count * patches + torch.where(slots % width == 0, slots, slots + count * width)
    marks = kept[:, 1:].flatten(1)
    within = marks.clamp(min=0) + slots // width * patches
    place = canvas_places(grid, tiles)[within]
    keys = torch.where(marks >= 0, place, made - 2 * count * width * (marks + 1))
    behind = ranked(-keys.float(), count * width) + width  # exact: below 2**24
    return torch.cat([torch.arange(width).expand(kept.shape[0], -1), behind], 1)


def list_places(grid: Grid, tiles: tuple[int, int]) -> tuple[int, ...]:
    """Where each token of view after view stands in the uncut picture's list."""
    (rows, cols), (down, across), patches = tiles, grid, grid.rows * grid.cols
    tokens = product(range(rows), range(cols), range(down), range(across))
    canvas = (((i * down + y) * cols + j) * across + x for i, j, y, x in tokens)  # plain numbers: plans ask for them
    return (*range(patches), *(patches + place for place in canvas))


def numbered(kept: Tensor, grid: Grid, tiles: tuple[int, int]) -> Tensor:
    """Patch numbers `[...,V,k]` within each view as rows of the uncut picture with newlines; negative ones stay."""
    patches, line = grid.rows * grid.cols, tiles[1] * grid.cols
    places = canvas_places(grid, tiles)
    places = torch.cat([torch.arange(patches), patches + places + places // line])
    views = torch.arange(1 + tiles[0] * tiles[1])[:, None] * patches
    return torch.where(kept < 0, kept, places[kept.clamp(min=0) + views])


def with_newlines(rows: Tensor, newline: Tensor, grid: Grid, tiles: tuple[int, int]) -> Tensor:
    """All rows of an uncut picture `[B,V*N,D]` with `newline` `[D]` behind each row of the canvas."""
    patches, down, across = grid.rows * grid.cols, tiles[0] * grid.rows, tiles[1] * grid.cols
    canvas = rows[:, patches:].reshape(rows.shape[0], down, across, -1)
    ends = newline.to(rows.dtype).expand(rows.shape[0], down, 1, -1)
    return torch.cat([rows[:, :patches], torch.cat([canvas, ends], 2).flatten(1, 2)], 1)
