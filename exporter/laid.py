"""A prompt of the reference as rows, before anything is generated behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Laid:
    """A prompt as rows: `following` is the position of the first token behind it."""

    rows: Tensor  # [n,C]
    positions: Tensor  # [axes,n]
    valid: Tensor  # [n]
    starts: tuple[int, ...]
    width: int
    following: int
    carry: dict[str, Tensor]
    bucket: int = 0

    def padded(self, length: int) -> Laid:
        """With rows of nothing behind, up to `length`."""
        more = length - len(self.rows)
        behind = (self.following + torch.arange(more)).expand(len(self.positions), -1)
        return replace(
            self,
            rows=torch.cat([self.rows, self.rows.new_zeros(more, self.rows.shape[1])]),
            positions=torch.cat([self.positions, behind], 1),
            valid=torch.cat([self.valid, torch.zeros(more, dtype=torch.bool)]),
        )

    def dummies(self, count: int, width: int) -> Laid:
        """With spans that hold nothing, as engines have them where a prompt has fewer pictures."""
        starts = [len(self.rows) + width * number for number in range(count)]
        carry = {name: torch.cat([v, v.new_zeros(1, count, width)], 1) for name, v in self.carry.items()}
        more = self.padded(len(self.rows) + width * count)
        return replace(more, starts=(*self.starts, *starts), width=width, carry=carry)
