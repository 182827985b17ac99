"""The token sequence that travels through a stack, and how a selection cuts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from exporter.reducer import Selection, Stage
from exporter.select import gather_rows


@dataclass(frozen=True)
class Sequence:
    """B sequences of S rows with I prunable spans of `width` tokens each.

    `start` is an int where the spans stand still (encoders: one span behind the prefix) and `[B,I]` where prompts place
    them. Where the projector merges patches, `unit` rows of an encoder make one token. Everything here is gathered
    together at a cut. `whole` says that there was none yet, which makes attention inside windows cheap.
    """

    hidden: Tensor  # [B,S,C]
    start: int | Tensor
    width: int
    origin: Tensor  # [B,I,width] int64: place in the uncut span, -1 for merged rows
    valid: Tensor | None = None  # [B,S] bool; None: every row is
    positions: Tensor | None = None  # [B,S] int64, [B,S,axes] where they are several numbers
    bias: Tensor | None = None  # [B,S] fp32, added to the logits of these keys
    carry: Mapping[str, Tensor] = field(default_factory=dict)  # [B,I,width]
    unit: int = 1
    whole: bool = False
    marks: Mapping[str, Tensor] = field(default_factory=dict)  # [B,S]
    rows: Tensor | None = None  # [B,S] int64: where each row stood before any cut
    numbering: int = 0  # how often its positions were counted anew

    @property
    def outside(self) -> Tensor:
        """`[B,S-I*width*unit]` int64: places of the rows that belong to no span, ascending."""
        places = torch.arange(self.hidden.shape[1]).expand(self.hidden.shape[:2])
        return self.splice(
            places, places.new_zeros(*self.origin.shape[:2], 0, *((self.unit,) if self.unit > 1 else ()))
        )

    @property
    def span(self) -> Tensor:
        """`[B,I,width]` int64: where each span's tokens (their first rows) stand."""
        steps = torch.arange(self.width) * self.unit
        if isinstance(self.start, int):
            return (self.start + steps).expand(*self.origin.shape[:2], -1)
        return self.start[..., None] + steps

    def span_of(self, values: Tensor) -> Tensor:
        """The spans of `[B,S,*tail]` as `[B,I,width,*tail]`; as `[B,I,width,unit,*tail]` where tokens have rows."""
        if isinstance(self.start, int):
            span = values[:, None, self.start : self.start + self.width * self.unit]
            return span if self.unit == 1 else span.reshape(*span.shape[:2], self.width, self.unit, *span.shape[3:])
        flat = gather_rows(values, self.span.flatten(1))
        return flat.reshape(*self.origin.shape, *values.shape[2:])

    def splice(self, values: Tensor, rows: Tensor) -> Tensor:
        """`values` `[B,S,*tail]` with each span replaced by its `rows` `[B,I,W,*tail]`."""
        if isinstance(self.start, int):
            end = self.start + self.width * self.unit
            flat = rows.flatten(1, 2 if self.unit == 1 else 3)
            return torch.cat([values[:, : self.start], flat, values[:, end:]], 1)
        count, width = rows.shape[1:3]
        length = values.shape[1] - count * (self.width - width)
        place = torch.arange(length)
        first = (self.start - torch.arange(count) * (self.width - width))[..., None]  # [B,I,1] starts after the cut
        passed = (place >= first + width).sum(1)  # [B,S'] spans wholly to the left
        outside = gather_rows(values, place + passed * (self.width - width))
        if width == 0:
            return outside
        inside = (place >= first) & (place < first + width)  # [B,I,S']
        local = (place - first).clamp(0, width - 1) + torch.arange(count)[:, None] * width
        kept = gather_rows(rows.flatten(1, 2), (local * inside).sum(1))
        return torch.where(inside.any(1).reshape(*outside.shape[:2], *(1 for _ in outside.shape[2:])), kept, outside)


def observe(sequence: Sequence, selection: Selection) -> Sequence:
    """Take in what a selection says of tokens that all stay: carried values and key bias."""
    marks = {**sequence.marks, **selection.marks}
    sequence = replace(sequence, carry={**sequence.carry, **selection.carry}, marks=marks)
    if selection.key_bias is None:
        return sequence
    bias = torch.zeros(sequence.hidden.shape[:2]) if sequence.bias is None else sequence.bias
    change = selection.key_bias.float()
    added = sequence.span_of(bias) + (change if sequence.unit == 1 else change[..., None])
    return replace(sequence, bias=sequence.splice(bias, added))


def adopt(sequence: Sequence) -> Sequence:
    """The row in front of the span ([CLS]) joins it."""
    assert isinstance(sequence.start, int)
    front = sequence.origin.new_full((*sequence.origin.shape[:2], 1), -1)
    carry = {name: torch.cat([0.0 * v[..., :1], v], -1) for name, v in sequence.carry.items()}
    origin = torch.cat([front, sequence.origin], -1)
    return replace(sequence, start=sequence.start - 1, width=sequence.width + 1, origin=origin, carry=carry)


def cut(sequence: Sequence, stage: Stage, selection: Selection, *, renumber: bool) -> Sequence:
    """The sequence after a stage: spans reduced to `keep + extra` rows, everything that travels with them too."""
    if stage.keep is None:
        return observe(sequence, selection)
    rows = _Rows(sequence, stage, selection)
    bias = None if sequence.bias is None else rows.of(sequence.bias, 0.0)
    start = sequence.start
    if not isinstance(start, int):
        start = start - torch.arange(start.shape[1]) * (sequence.width - rows.width)
    hidden = sequence.splice(sequence.hidden, rows.mixed())
    positions = None
    if sequence.positions is not None:
        fresh = torch.arange(hidden.shape[1]).expand(hidden.shape[:2])
        positions = fresh if renumber else rows.of(sequence.positions, 0)
    reduced = Sequence(
        hidden=hidden,
        start=start,
        width=rows.width,
        origin=rows.origin(),
        valid=None if sequence.valid is None else rows.of_valid(sequence.valid),
        positions=positions,
        bias=bias,
        carry={name: rows.pick(values, 0) for name, values in sequence.carry.items()},
        unit=sequence.unit,
        marks={name: rows.of(values, 0) for name, values in sequence.marks.items()},
        rows=None if sequence.rows is None else rows.of(sequence.rows, -1),
        numbering=sequence.numbering + renumber,
    )
    reduced = observe(reduced, selection)
    return adopt(reduced) if stage.cls else reduced


class _Rows:
    """The new rows of each span: gathered ones, then those that `mix` writes."""

    def __init__(self, sequence: Sequence, stage: Stage, selection: Selection) -> None:
        self.sequence, self.keep, self.extra = sequence, stage.keep or 0, stage.extra
        self.width = self.keep + self.extra
        self.selection = selection
        shape = (*sequence.origin.shape[:2], 0)
        found = torch.zeros(shape, dtype=torch.int64) if selection.indices is None else selection.indices
        self.marks = found if stage.blanks else None  # negative: a blank
        self.indices = found.clamp(min=0) if stage.blanks else found
        self.mix_rows = selection.mix_rows or tuple(range(self.keep, self.width))

    def pick(self, spans: Tensor, fill: float) -> Tensor:
        """`[B,I,n,*tail]` gathered to `[B,I,width,*tail]`, merged rows filled."""
        kept = gather_rows(spans, self.indices)
        if not self.extra:
            return kept
        return torch.cat([kept, kept.new_full((*kept.shape[:2], self.extra, *kept.shape[3:]), fill)], 2)

    def origin(self) -> Tensor:
        """`[B,I,width]` int64: places in the uncut span; merged rows and blanks are negative."""
        kept = self.pick(self.sequence.origin, -1)
        if self.marks is None:
            return kept
        marks = torch.cat([self.marks, self.marks.new_full((*self.marks.shape[:2], self.extra), -1)], -1)
        return torch.where(marks < 0, marks, kept)

    def of(self, values: Tensor, fill: float) -> Tensor:
        """`[B,S]` values of the whole sequence after the cut."""
        return self.sequence.splice(values, self.pick(self.sequence.span_of(values), fill))

    def of_valid(self, valid: Tensor) -> Tensor:
        """`[B,S']` bool: kept rows as they were, merged ones as the first row of their span."""
        valid = valid.to(torch.int64)  # ONNX Runtime has no Where over bool
        spans = self.sequence.span_of(valid)
        kept = gather_rows(spans, self.indices)
        return self.sequence.splice(valid, torch.cat([kept, *[spans[:, :, :1]] * self.extra], 2)) > 0

    def mixed(self) -> Tensor:
        """`[B,I,width,(unit,)C]`: the hidden rows that live on."""
        spans = self.sequence.span_of(self.sequence.hidden)
        kept = gather_rows(spans, self.indices)
        if self.marks is not None:
            kept = kept * (self.marks >= 0).to(kept.dtype).reshape(*self.marks.shape, *(1 for _ in kept.shape[3:]))
        if self.selection.mix is None:
            return kept
        new = self.selection.mix.to(spans.dtype) @ spans.flatten(3)
        new = new.reshape(*new.shape[:3], *spans.shape[3:])
        if len(self.mix_rows) == self.width:
            return new
        source = [self.keep + self.mix_rows.index(r) if r in self.mix_rows else r for r in range(self.width)]
        return torch.cat([kept, new], 2)[:, :, source]
