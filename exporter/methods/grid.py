"""Grid: patches at even distances, whatever the picture shows; the floor that other methods are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch

from exporter.budget import Budget
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage, Taps


@dataclass(frozen=True)
class EvenGrid(Reducer):
    """Keep patches at even distances, in their original order; constants of the engine.

    Mode `uniform` keeps the crossings of kh rows and kw columns, `floor((i + 1/2) * h / kh)` each. Of all kh <= h and
    kw <= w whose aspect kh / kw is within a factor of 2 of h / w, the product nearest to the budget wins, then the
    aspect nearest to the picture's, then more rows; the plan holds that product, which may differ from the budget.
    Mode `linear` keeps exactly K of the list of patches, `floor((i + 1/2) * N / K)`.
    Budget: patches per view (picture, crop or frame).

    Attributes:
        mode: `uniform` or `linear`.
    """

    title = "Uniform grid"
    paper = "no paper: a baseline"

    mode: str = "uniform"

    def __post_init__(self) -> None:
        if self.mode not in {"uniform", "linear"}:
            raise ValueError(f"mode {self.mode} is neither uniform nor linear")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used."""
        keep = budget.count(shape.patches)
        if self.mode == "uniform":
            lines = crossings(shape.grid, keep)
            keep = lines.rows * lines.cols
        return (Stage("tower", shape.tower_last, keep=keep),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """A constant."""
        assert stage.keep is not None
        shape = taps.shape
        if self.mode == "linear":
            kept = torch.tensor(evenly(shape.patches, stage.keep))
        else:
            lines = crossings(shape.grid, stage.keep)
            rows, cols = evenly(shape.grid.rows, lines.rows), evenly(shape.grid.cols, lines.cols)
            kept = torch.tensor([row * shape.grid.cols + col for row in rows for col in cols])
        return Selection(indices=kept.expand(*taps.span.shape[:2], -1))


def evenly(length: int, count: int) -> list[int]:
    """`count` of `length` places, each in the middle of its share."""
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]


def crossings(grid: Grid, keep: int) -> Grid:
    """How many rows and columns to keep of `grid` for about `keep` crossings."""
    best, chosen = None, grid
    for rows in range(1, grid.rows + 1):
        for cols in range(1, grid.cols + 1):
            aspect = Fraction(rows * grid.cols, cols * grid.rows)
            aspect = max(aspect, 1 / aspect)
            merit = (abs(rows * cols - keep), aspect, -rows)
            if aspect <= 2 and (best is None or merit < best):
                best, chosen = merit, Grid(rows, cols)
    return chosen


METHOD = EvenGrid
