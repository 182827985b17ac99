"""How the views of a picture are drawn: the whole of it by itself, its tiles as one canvas, frames side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from exporter.form import Form
from exporter.reducer import Grid
from exporter.tiles import canvas_places

WIDEST = 1344  # pixels of a panel; what is larger is shrunk


class Panel(NamedTuple):
    """A drawing, its cells in rows and columns, and the numbers of those that hold a kept patch."""

    picture: Image.Image
    grid: Grid
    kept: list[int]


def panels(views: Sequence[Image.Image], form: Form, grid: Grid, kept: Sequence[int]) -> list[Panel]:
    """The panels of one picture.

    Args:
        views: what the model sees, of equal size; several for a view that is made of several frames.
        form: what kind of picture it is.
        grid: patches of one view.
        kept: patch numbers, view after view.
    """
    views = views[:: len(views) // form.views]
    if form.tiles is None:
        return [_panel(views, _arranged(form.views), grid, kept)]
    patches = grid.rows * grid.cols
    whole = [number for number in kept if number < patches]
    tiled = [number - patches for number in kept if number >= patches]
    return [_panel(views[:1], Grid(1, 1), grid, whole), _panel(views[1:], Grid(*form.tiles), grid, tiled)]


def _arranged(count: int) -> Grid:
    """Frames in rows of equal length, nearly as many rows as columns."""
    rows = max(rows for rows in range(1, count + 1) if count % rows == 0 and rows * rows <= count)
    return Grid(rows, count // rows)


def _panel(views: Sequence[Image.Image], layout: Grid, grid: Grid, kept: Sequence[int]) -> Panel:
    shrink = min(1.0, WIDEST / (layout.cols * views[0].width))
    width, height = (max(1, int(side * shrink)) for side in views[0].size)
    sheet = Image.new("RGB", (layout.cols * width, layout.rows * height))
    for number, view in enumerate(views):
        corner = (number % layout.cols * width, number // layout.cols * height)
        sheet.paste(view if shrink == 1 else view.resize((width, height)), corner)
    places = canvas_places(grid, layout).tolist()
    cells = Grid(layout.rows * grid.rows, layout.cols * grid.cols)
    return Panel(sheet, cells, [places[number] for number in kept])
