"""PruMerge+: PruMerge with evenly spaced patches kept as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.prumerge import PruMerge
from exporter.reducer import Shape, Stage
from exporter.select import ranked, ranks


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
        "the grid is kept and attention fills the budget, so that overlap costs no token; the authors keep fewer there",
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
        fixed = min(shape.patches, len(self.spread(shape.patches, stage.keep)) + (self.top or 0))
        if fixed > stage.keep:
            raise UserError(
                f"--keep {budget.text}: stride and top hold up to {fixed} patches, and the merged row is one more; "
                f"keep {fixed + 1} of {shape.patches} or more, or give a wider stride"
            )
        return (Stage(stage.stack, stage.layer, keep=stage.keep, extra=1, blanks=self.top is not None),)

    def spread(self, length: int, keep: int) -> range:
        """The patches of the grid."""
        if not keep:
            return range(0)
        room = max(1, keep - (self.top or 0))
        fitting = -(-(length - 1) // room)
        rule = 4 * length // (keep + 1) // 3
        return range(0, length - 1, self.stride or max(1, fitting, rule))

    def order(self, attention: Tensor, keep: int) -> Tensor:
        """The most attended, then the rest of the grid; at last -2 where there is no more."""
        length = attention.shape[-1]
        spread = self.spread(length, keep)
        rank, place = ranks(attention), torch.arange(length)
        grid = torch.tensor([number in spread for number in range(length)])
        lead: int | Tensor = self.top or 0
        if self.top is None and keep > len(spread):
            fill = ranked(attention - 2 * grid.float(), keep - len(spread))  # no attention exceeds 1
            lead = rank.gather(-1, fill[..., -1:]) + 1
        leading = rank < lead
        queue = torch.where(leading, rank, torch.where(grid, length + place, 2 * length + place))
        chosen = ranked(-queue, keep)
        if self.top is None:
            return chosen
        return torch.where(torch.arange(keep) < (leading | grid).sum(-1, keepdim=True), chosen, -2)


METHOD = PruMergePlus
