"""Taps while exporting: references recorded from the running stack, everything else recomputed on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from exporter.attention import Tape
from exporter.masks import last_place
from exporter.reducer import QKV, Point, Rows, Shape
from exporter.select import gather_rows
from exporter.sequence import Sequence


@dataclass
class Record:
    """What one layer left: its hidden states by point, and its attention call."""

    points: dict[Point, Tensor] = field(default_factory=dict)
    tape: Tape = field(default_factory=Tape)


@dataclass(frozen=True)
class RecordedTaps:
    """The taps of one stage (see `exporter.reducer.Taps`)."""

    sequence: Sequence
    records: Mapping[int, Record]  # layers that ran since the last cut
    project: Callable[[int, bool], Tape]  # q, k, v of a layer from its input, not part of the main path
    mask: Callable[[Tensor], Tensor] | None  # query places [B,R] -> [B,1,R,S] bool; None: all see all
    shape: Shape
    carry: Mapping[str, Tensor]
    state: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    align: Callable[..., Tensor] | None = None
    ahead: Callable[[int], Record] | None = None  # all points of the layer about to run, beside the main path
    window: Callable[[int], Tensor | None] = lambda _: None  # which rows see each other in a layer, [B,1,S,S] bool
    rope: tuple[Tensor, Tensor] | None = None
    norm: Callable[[Tensor], Tensor] | None = None

    @property
    def valid(self) -> Tensor:
        """`[B,S]` bool: rows that hold a token."""
        valid = self.sequence.valid
        return torch.ones(self.sequence.hidden.shape[:2], dtype=torch.bool) if valid is None else valid

    @property
    def span(self) -> Tensor:
        """`[B,I,N]` int64: places of the spans' tokens."""
        return self.sequence.span

    @property
    def outside(self) -> Tensor:
        """`[B,S-I*N]` int64: places of rows in no span."""
        return self.sequence.outside

    @property
    def marks(self) -> Mapping[str, Tensor]:
        """`[B,S]` each."""
        return self.sequence.marks

    def normed(self, states: Tensor) -> Tensor:
        """`[...,C]` behind the final norm."""
        assert self.norm is not None
        return self.norm(states)

    def span_of(self, values: Tensor) -> Tensor:
        """The spans of `[B,...,S]` as `[B,I,...,N]`."""
        start, unit = self.sequence.start, self.sequence.unit
        if isinstance(start, int):
            span = values[..., start : start + self.sequence.width * unit].unsqueeze(1)
            return span if unit == 1 else span.reshape(*span.shape[:-1], -1, unit).mean(-1)
        return self.sequence.span_of(values.movedim(-1, 1)).movedim(2, -1)

    def aligned(self, states: Tensor, *, norm: bool) -> Tensor:
        """`[...,C]` to `[...,P]`."""
        assert self.align is not None
        return self.align(states, norm=norm)

    def hidden(self, layer: int, point: Point = "out") -> Tensor:
        """`[B,S,C]` at one point of a layer that ran since the last cut, or is about to run."""
        following = self.ahead is not None and layer == max(self.records) + 1
        points = (self.ahead(layer) if self.ahead is not None and following else self._record(layer)).points
        if point not in points:
            raise ValueError(f"layer {layer} ran before the last cut; carry its scores instead")
        return points[point]

    def qkv(self, layer: int, *, rope: bool = True) -> QKV:
        """q, k, v of a layer, also of the one about to run."""
        return self._tape(layer, rope=rope).qkv

    def rows(self, layer: int, rows: Rows, *, logits: bool = False) -> Tensor:
        """Attention of chosen queries over all keys, `[B,H,R,S]` in fp32."""
        q, k, _ = self.qkv(layer)
        place = self._places(rows)
        q = (
            q[:, :, :1]
            if isinstance(rows, str) and rows == "cls"
            else gather_rows(q.transpose(1, 2), place).transpose(1, 2)
        )
        mask = None if self.mask is None else self.mask(place)
        if (seen := self.window(layer)) is not None:
            near = gather_rows(seen[:, 0].to(torch.int64), place)[:, None] > 0
            mask = near if mask is None else mask & near
        bias = None if self.sequence.bias is None else self.sequence.bias[:, None, None]
        return attended(q, k, self._tape(layer, rope=True).scale, mask, bias, logits=logits)

    def column_sum(self, layer: int, weights: Tensor | None = None) -> Tensor:
        """`[B,H,S]`: attention received by each key; the one tap that needs a full map."""
        length = self.sequence.hidden.shape[1]
        every = torch.arange(length).expand(self.sequence.hidden.shape[:2])
        weights = self.valid if weights is None else weights
        return (self.rows(layer, every) * weights.float()[:, None, :, None]).sum(2)

    def _places(self, rows: Rows) -> Tensor:
        batch = self.sequence.hidden.shape[0]
        if isinstance(rows, Tensor):
            return rows
        if rows == "cls":
            return torch.zeros(batch, 1, dtype=torch.int64)
        return last_place(self.valid)

    def _tape(self, layer: int, *, rope: bool) -> Tape:
        if rope and layer in self.records and self.records[layer].tape.q is not None:
            return self.records[layer].tape
        return self.project(layer, rope)

    def _record(self, layer: int) -> Record:
        if layer not in self.records:
            known = ", ".join(map(str, self.records)) or "none"
            raise ValueError(
                f"layer {layer} did not run since the last cut (recorded: {known}); carry its scores instead"
            )
        return self.records[layer]


def attended(
    q: Tensor, k: Tensor, scale: float, mask: Tensor | None, bias: Tensor | None = None, *, logits: bool = False
) -> Tensor:
    """Attention of queries over keys, `[B,H,R,S]` fp32: softmax, or the logits; a mask is bool or added."""
    raw = _logits(q, k) * scale
    if bias is not None:
        raw = raw + bias
    if mask is not None and mask.dtype == torch.bool:
        raw = raw.masked_fill(~mask, torch.finfo(torch.float32).min)
    elif mask is not None:
        raw = raw + mask.float()
    return raw if logits else raw.softmax(-1)


def _logits(q: Tensor, k: Tensor) -> Tensor:
    """`q @ k^T` in fp32, `[B,H,R,S]`; each key head serves a group of query heads."""
    groups = q.shape[1] // k.shape[1]
    if groups == 1:
        return q.float() @ k.float().transpose(2, 3)
    batch, heads, rows, width = q.shape
    grouped = q.float().reshape(batch, k.shape[1], groups * rows, width)
    return (grouped @ k.float().transpose(2, 3)).reshape(batch, heads, rows, k.shape[2])
