"""MustDrop, its vision stage: windows of nearly equal patches become one token each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.slots import EMPTY, packed
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage, Taps
from exporter.select import ranks

UNSEEN = -1e4  # an attention logit: finite in fp16, and no weight is left of it


@dataclass(frozen=True)
class MustDrop(Reducer):
    """Merge the r windows of w^2 patches that are most alike inside, each into its mean.

    `sim_W`: mean cosine of all pairs of different patches of a window (fp32, epsilon 1e-8). The rows are the merged
    windows, the most alike first, then all other patches in their order: not the order of places, and numbered anew.
    Budget: patches per view; `r = floor((T - keep) / (w^2 - 1))`, T counting [CLS] too, which leaves `N - r (w^2 - 1)`
    patches: up to w^2 - 2 more than asked for, or one less. The least is one patch a window.

    Attributes:
        layer: the tower's layer behind which it acts; the authors' code has 0. -1: the last one that the projector
            reads, as in LightCompress.
        window: rows x columns of a window.
        threshold: merge every window whose sim is this or more, whatever --keep says; the authors' default is 0.8. How
            many those are only the data knows, so every patch gets a slot and empty ones are masked: nothing is saved.
        merge: whether windows become means. If not, their last patches stand for them and all rows keep the order of
            places, as LightCompress has it for LLaVA-NeXT.

    Raises:
        ValueError: a window that is not ROWSxCOLS, or has less than two patches.
        UserError: windows do not tile the grid, or a budget of less than one patch a window.

    Source: *Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model*, arXiv 2411.10803.

    """

    title = "MustDrop"
    paper = "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model"
    arxiv = "2411.10803"
    differences = (
        "the vision stage alone: no key set, no filter by text in the decoder, no compaction of its cache",
        "by default r follows from the budget, as in LightCompress; threshold=0.8 is the paper's",
        "each view counts its own windows; the authors' code takes the least count of the batch",
        "cosines in fp32; windows that are equally alike go by the lower index",
        "towers without [CLS] (ours): T is the number of patches",
    )

    layer: int = 0
    window: str = "3x3"
    threshold: float | None = None
    merge: bool = True

    def __post_init__(self) -> None:
        """Check the window."""
        if self._sides.rows * self._sides.cols < 2:
            raise ValueError(f"window {self.window} holds no two patches")

    @property
    def _sides(self) -> Grid:
        sides = self.window.split("x")
        if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
            raise ValueError(f"window is ROWSxCOLS, such as 3x3, not {self.window}")
        return Grid(*map(int, sides))

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut in the tower; with a threshold only of what turns out to be empty."""
        grid, (rows, cols) = shape.grid, self._sides
        if grid.rows % rows or grid.cols % cols:
            raise UserError(
                f"--method mustdrop: windows of {self.window} do not tile {grid.rows}x{grid.cols} patches; "
                "give --param window=ROWSxCOLS that does"
            )
        layer = self.layer if self.layer >= 0 else shape.tower_last + 1 + self.layer
        if self.threshold is not None:
            return (Stage("tower", layer, keep=shape.patches, blanks=True),)
        size = rows * cols
        merged = (shape.patches + shape.has_cls - budget.count(shape.patches)) // (size - 1)
        if merged > shape.patches // size:
            raise UserError(
                f"--keep {budget.text}: mustdrop leaves one patch or more of each {self.window} window: "
                f"give {shape.patches // size} of {shape.patches} or more"
            )
        return (Stage("tower", layer, keep=shape.patches - merged * (size - 1)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Merged windows and single patches, each in its slot."""
        assert stage.keep is not None
        grid, sides, patches = taps.shape.grid, self._sides, torch.arange(taps.shape.patches)
        size = sides.rows * sides.cols
        rows = taps.span_of(taps.hidden(stage.layer).float().transpose(1, 2)).transpose(2, 3)
        alike = similarity(rows, grid, sides)
        count = torch.tensor((len(patches) - stage.keep) // (size - 1))
        if self.threshold is not None:
            count = (alike >= self.threshold).sum(-1, keepdim=True)
        place = ranks(alike)[..., windows(grid, sides)]  # of each patch's window, the most alike first
        merged = place < count
        single = (~merged).to(torch.int64).cumsum(-1) - 1
        slot = torch.where(merged, place, count + single)
        holds = slot.unsqueeze(-2) == torch.arange(stage.keep)[:, None]  # [B,I,keep,N]
        last = torch.where(holds, patches, EMPTY).amax(-1)
        if not self.merge:
            last = packed((last.unsqueeze(-1) == patches).to(torch.int64).sum(-2) > 0, stage.keep)
        unseen = None if self.threshold is None else (last < 0) * UNSEEN  # empty slots, in layers that follow
        if not self.merge:
            return Selection(indices=last, key_bias=unseen)
        weight = torch.where(merged, 1 / size, 1.0).unsqueeze(-2)
        return Selection(indices=last, mix=holds * weight, mix_rows=tuple(range(stage.keep)), key_bias=unseen)


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


METHOD = MustDrop
