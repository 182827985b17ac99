"""Attention inside windows of a grid, each window by itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from exporter.reducer import Grid


@dataclass(frozen=True)
class TowerWindows:
    """`side` x `side` tokens of a grid see each other; what is left at the right and bottom edges is smaller.

    A token has `unit` rows, one behind the other; tokens are row-major. Constants are NumPy's, which no tracing sees.
    """

    grid: Grid
    side: int
    unit: int

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """`[S]`: the window of each row."""
        row, col = (np.arange(size) // self.side for size in self.grid)
        return np.repeat((row[:, None] * (col[-1] + 1) + col).ravel(), self.unit)

    @cached_property
    def alike(self) -> tuple[NDArray[np.int64], ...]:
        """Rows by window, `[windows,rows]` for each size of window."""
        every = [np.flatnonzero(self.numbers == number) for number in range(self.numbers[-1] + 1)]
        return tuple(np.stack([rows for rows in every if len(rows) == size]) for size in sorted({*map(len, every)}))

    @cached_property
    def back(self) -> NDArray[np.int64]:
        """`[S]`: where each row stands behind `alike`."""
        return np.argsort(np.concatenate([rows.ravel() for rows in self.alike]))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of `[B,S,H,d]` as `[B,S,H,d]`; the windows of one size are one batch."""
        done = []
        for rows in self.alike:
            boxed_q, boxed_k, boxed_v = (_boxes(values, rows) for values in (q, k, v))
            out = scaled_dot_product_attention(boxed_q, boxed_k, boxed_v, scale=scale).transpose(1, 2)
            done.append(out.reshape(-1, rows.size, *q.shape[2:]))
        return torch.cat(done, 1).index_select(1, torch.tensor(self.back))

    def shared(self, positions: Tensor) -> Tensor:
        """`[B,1,S,S]` bool: which rows at `positions` `[B,S]` of the whole grid stand in one window."""
        found = torch.tensor(self.numbers)[positions]
        return (found[:, :, None] == found[:, None])[:, None]


def _boxes(values: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """`[B,S,H,d]` as `[B*windows,H,rows,d]`."""
    picked = values.index_select(1, torch.tensor(rows.ravel()))
    return picked.reshape(-1, rows.shape[1], *values.shape[2:]).transpose(1, 2)
