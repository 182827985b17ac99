"""Stock towers that hold one view's rows without a batch axis, window after window: how the reference reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from exporter.eager_taps import Seen


@dataclass(frozen=True)
class Packed:
    """Between the stock order of rows, `[S,C]`, and the picture's, `[1,S,C]`; `positions` says which rows are left.

    `windows` `[N]` is the window of each row of the whole view, in the picture's order; `everywhere` are the layers
    that know no windows.
    """

    windows: Tensor
    everywhere: tuple[int, ...]

    def order(self, positions: Tensor) -> Tensor:
        """`[S]`: the rows in stock order."""
        return torch.sort(self.windows[positions], stable=True).indices

    def enter(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Stock rows in the picture's order, with a batch axis."""
        return rows[self.order(positions).argsort()][None]

    def leave(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The way back."""
        return rows[0, self.order(positions)]

    def kwargs(self, kwargs: Mapping[str, Any], layer: int, positions: Tensor) -> dict[str, Any]:
        """What the stock model gives a layer for the whole view, for the rows that are left."""
        whole = torch.arange(len(self.windows))
        tables = (self.enter(table, whole)[:, positions] for table in kwargs["position_embeddings"])
        lengths = torch.unique_consecutive(self._within(layer, positions).sort().values, return_counts=True)[1]
        return {
            **kwargs,
            "cu_seqlens": pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)),
            "position_embeddings": tuple(self.leave(table, positions) for table in tables),
        }

    def mask(self, layer: int, positions: Tensor, bias: Tensor | None) -> Tensor:
        """`[1,1,S,S]`: what a layer's windows and `bias` `[S]` add to its logits."""
        within = self._within(layer, positions)
        seen = torch.where(within[:, None] == within, 0.0, torch.finfo(torch.float32).min)
        return (seen if bias is None else seen + bias)[None, None]

    def biased(self, attention: Any, seen: Seen) -> Tensor:
        """The layer's attention again, `[1,S,C]`: stock code has no place for a bias."""
        q, k, v = seen.qkv[True]
        assert seen.mask is not None
        weights = (q @ k.transpose(2, 3) * seen.scale + seen.mask).softmax(-1)
        out: Tensor = attention.proj((weights @ v).transpose(1, 2).flatten(2))
        return out

    def _within(self, layer: int, positions: Tensor) -> Tensor:
        found = self.windows[positions]
        return torch.zeros_like(found) if layer in self.everywhere else found
