"""Taps over arrays that eager PyTorch produced: for the reference, and for vectors recorded elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from exporter.reducer import QKV, Point, Rows, Shape


@dataclass
class Seen:
    """What one eager layer showed: points, attention weights `[B,H,n,n]` (or their first rows), projections."""

    points: dict[str, Tensor] = field(default_factory=dict)
    attention: Tensor | None = None
    qkv: dict[bool, QKV] = field(default_factory=dict)  # by rope
    scale: float = 1.0
    mask: Tensor | None = None  # what was added to the logits; without attention, the softmax of both is taken


@dataclass(frozen=True)
class EagerTaps:
    """See `exporter.reducer.Taps`; spans are given by first place and width."""

    starts: tuple[int, ...]
    width: int
    length: int  # rows a selection may look at; what stands behind them is not there yet
    seen: Mapping[int, Seen]
    shape: Shape
    carry: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    batch: int = 1
    peek: Callable[[int], Seen] | None = None  # what the layer about to run would show
    align: Callable[..., Tensor] | None = None
    unit: int = 1  # rows that make one token of a span
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    rope: tuple[Tensor, Tensor] | None = None
    norm: Callable[[Tensor], Tensor] | None = None
    filled: Tensor | None = None  # [B,length] bool: rows that hold a token; None: all

    @property
    def outside(self) -> Tensor:
        """`[B,n-I*N]` int64: places of rows in no span."""
        inside = {start + step for start in self.starts for step in range(self.width * self.unit)}
        places = [place for place in range(self.length) if place not in inside]
        return torch.tensor(places, dtype=torch.int64).expand(self.batch, -1)

    def normed(self, states: Tensor) -> Tensor:
        """`[...,C]` behind the final norm."""
        assert self.norm is not None
        return self.norm(states)

    @property
    def valid(self) -> Tensor:
        """`[B,n]`."""
        return torch.ones(self.batch, self.length, dtype=torch.bool) if self.filled is None else self.filled

    @property
    def span(self) -> Tensor:
        """`[B,I,N]` int64."""
        steps = torch.arange(self.width) * self.unit
        return (torch.tensor(self.starts)[:, None] + steps).expand(self.batch, -1, -1)

    def span_of(self, values: Tensor) -> Tensor:
        """The spans of `[B,...,n]` as `[B,I,...,N]`."""
        rows = self.width * self.unit
        spans = torch.stack([values[..., start : start + rows] for start in self.starts], 1)
        return spans if self.unit == 1 else spans.reshape(*spans.shape[:-1], -1, self.unit).mean(-1)

    def aligned(self, states: Tensor, *, norm: bool) -> Tensor:
        """`[...,C]` to `[...,P]`."""
        assert self.align is not None
        return self.align(states, norm=norm)

    def hidden(self, layer: int, point: Point = "out") -> Tensor:
        """`[B,n,C]`."""
        points = self._layer(layer).points
        if point not in points:
            raise ValueError(f"layer {layer} ran before the last cut; carry its scores instead")
        return points[point][:, : self.length]

    def qkv(self, layer: int, *, rope: bool = True) -> QKV:
        """q, k, v of a layer, also of the one about to run."""
        q, k, v = self._layer(layer).qkv[rope]
        return QKV(q[:, :, : self.length], k[:, :, : self.length], v[:, :, : self.length])

    def rows(self, layer: int, rows: Rows, *, logits: bool = False) -> Tensor:
        """Rows of the attention weights themselves; logits from q and k."""
        seen = self._layer(layer)
        weights = (self._logits(seen) if logits else self._weights(seen))[..., : self.length]
        if isinstance(rows, str):
            every = torch.arange(self.length) if rows == "last" else torch.zeros(self.length, dtype=torch.int64)
            rows = torch.where(self.valid, every, 0).amax(1, keepdim=True)
        return torch.stack([weights[b][:, rows[b]] for b in range(self.batch)])

    def column_sum(self, layer: int, weights: Tensor | None = None) -> Tensor:
        """`[B,H,n]`."""
        attention = self._weights(self._layer(layer))[:, :, : self.length, : self.length]
        weights = self.valid.float() if weights is None else weights
        return torch.einsum("bq,bhqk->bhk", weights.float(), attention)

    def _weights(self, seen: Seen) -> Tensor:
        return self._logits(seen).softmax(-1) if seen.attention is None else seen.attention

    def _logits(self, seen: Seen) -> Tensor:
        q, k, _ = seen.qkv[True]
        raw = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(2, 3) * seen.scale
        raw = raw if seen.mask is None else raw + seen.mask
        lowest = torch.finfo(torch.float32).min
        return raw.masked_fill(raw < lowest / 2, lowest)

    def _layer(self, layer: int) -> Seen:
        if layer in self.seen:
            return self.seen[layer]
        if self.peek is None:
            raise ValueError(f"layer {layer} did not run since the last cut; carry its scores instead")
        return self.peek(layer)
