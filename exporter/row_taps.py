"""One generated token's view of one layer's cache, computed plainly: its attention, and the taps of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from exporter.reducer import QKV, Rows, Shape


@dataclass(frozen=True)
class RowTaps:
    """See `exporter.reducer.Taps`; the rows are n slots of which the new token's is the last."""

    given: QKV  # [1,H,1,d] of the token, [1,Hkv,n,d] twice
    scale: float
    valid: Tensor  # [1,n] bool
    bias: Tensor  # [n], added to the logits
    span: Tensor  # [1,I,N]
    shape: Shape
    state: Mapping[str, Tensor]
    carry: Mapping[str, Tensor] = field(default_factory=dict)

    def qkv(self, layer: int, *, rope: bool = True) -> QKV:
        """Of the layer that is looked at, the only one there is."""
        del layer
        assert rope
        return self.given

    def rows(self, layer: int, rows: Rows, *, logits: bool = False) -> Tensor:
        """Attention of the token, `[1,H,1,n]`."""
        del layer, rows
        return self.logits if logits else self.logits.softmax(-1)

    def span_of(self, values: Tensor) -> Tensor:
        """The spans of `[1,...,n]` as `[1,I,...,N]`, 0 where a token is gone."""
        found = [values[..., each.clamp(min=0)].masked_fill(each < 0, 0) for each in self.span[0]]
        return torch.stack(found, 1) if found else values.new_zeros(1, 0, *values.shape[1:-1], 0)

    @property
    def logits(self) -> Tensor:
        """`[1,H,1,n]`."""
        q, k, _ = self.given
        raw = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(2, 3) * self.scale
        return (raw + self.bias).masked_fill(~self.valid, torch.finfo(torch.float32).min)

    @property
    def answer(self) -> Tensor:
        """`[H*d]`: what attention gives the token, heads side by side."""
        q, _, v = self.given
        return (self.logits.softmax(-1) @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)).flatten()
