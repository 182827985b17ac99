"""PruMerge+: PruMerge with evenly spaced patches kept as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.prumerge import PruMerge, leading_first
from exporter.reducer import Shape, Stage


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """As PruMerge, but every `stride`-th patch of the list, the last one excepted, is kept too.

    Those on the grid are sure of a place; the most attended others fill the budget. The most attended ones come first,
    in descending order down to the last that fills, then the rest of the grid in ascending order, then the row of all
    that were not kept. Budget: rows per view, the last one included.

    Attributes:
        stride: distance on the grid. None: `int(int(1 / r) / 3)` as in the authors' code, with `r = K / 4N`, for which
            the grid is three times what is kept by attention; wider where the budget cannot hold that grid.
        top: keep this many by attention, as published, where those on the grid among them leave slots blank.
            None: as many as fill the budget.

    Source: *LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models*, arXiv 2403.15388.
    """

    title = "PruMerge+"
    differences = (
        *PruMerge.differences,
        "stride and number by attention are constants; the authors' code derives both from each picture's outliers",
        "the grid comes first and attention fills the budget, so that overlap costs no token; the authors' code joins "
        "both, and keeps fewer where they overlap (--param top=N does so, and leaves slots blank)",
    )

    stride: int | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("stride", self.stride), ("top", self.top)):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} is less than 1")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used.

        Raises:
            UserError: the grid, or with it the `top`, exceeds the budget; or PruMerge's own.
        """
        (stage,) = super().plan(shape, budget)
        assert stage.keep is not None
        fixed = len(self.spread(shape.patches, stage.keep)) + (self.top or 0)
        if fixed > stage.keep:
            raise UserError(
                f"--keep {budget.text}: too few for stride={self.stride} and top={self.top}, which may hold {fixed} "
                f"of {shape.patches} patches beside the merged row; give {fixed + 1} or more, or other parameters"
            )
        return (Stage(stage.stack, stage.layer, keep=stage.keep, extra=1, blanks=self.top is not None),)

    def spread(self, length: int, keep: int) -> range:
        """The patches of the grid."""
        if not keep:
            return range(0)
        held = keep - (self.top or 0)  # positions that the grid may take
        fitting = -(-(length - 1) // held) if held > 0 else length
        rule = int(4 * length / (keep + 1)) // 3
        return range(0, length - 1, self.stride or max(1, fitting, rule))

    def order(self, attention: Tensor, keep: int) -> Tensor:
        """The most attended, then the rest of the grid."""
        length = attention.shape[-1]
        spread = self.spread(length, keep)
        if self.top is not None:
            return leading_first(attention, self.top, spread, keep)
        if len(spread) == keep:
            return leading_first(attention, 0, spread, keep)
        off = torch.tensor([float(number not in spread) for number in range(length)])
        return leading_first(attention, last_rank(attention, off, keep - len(spread)) + 1, spread, keep)


def last_rank(attention: Tensor, off: Tensor, count: int) -> Tensor:
    """`[B,I,1]`: rank among all patches of the `count`-th most attended one that is `off` the grid."""
    ...


METHOD = PruMergePlus
