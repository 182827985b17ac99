"""A list cut into stretches of nearly equal length, side by side in one constant shape."""

from __future__ import annotations

import torch
from torch import Tensor


class Runs:
    """`count` stretches of a list of `length` items; the first `length % count` have one item more.

    Attributes:
        width: the longest stretch's items, m.
        sizes: `[P]` int64 items of each.
        starts: `[P]` int64 where each begins.
        real: `[P,m]` fp32, 0.0 where a stretch has no such item.
    """

    def __init__(self, length: int, count: int) -> None:
        self.width = -(-length // count)
        self.sizes = torch.tensor([length // count + (run < length % count) for run in range(count)])
        self.starts = self.sizes.cumsum(0) - self.sizes
        place = torch.arange(self.width)
        self.real = (place < self.sizes[:, None]).float()
        self._places = (self.starts[:, None] + place).clamp(max=length - 1)

    def split(self, values: Tensor, fill: float) -> Tensor:
        """`[B,I,n,*tail]` as `[B,I,P,m,*tail]`, `fill` where there is no item."""
        real = self.real.reshape(*self.real.shape, *(1 for _ in values.shape[3:]))
        items = values.index_select(2, self._places.flatten())
        return torch.where(real > 0, items.reshape(*values.shape[:2], *self.real.shape, *values.shape[3:]), fill)

    def mean(self, values: Tensor) -> Tensor:
        """`[B,I,P,m]` with zeros where there is no item: the stretches' means `[B,I,P]`."""
        return values.sum(-1) / self.sizes
