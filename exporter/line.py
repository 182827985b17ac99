"""One sequence of the reference: which of its rows are spans, where they came from, what travels with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from exporter.reducer import Selection, Stage


@dataclass(frozen=True)
class Line:
    """S rows (batch 1), I spans of `width` tokens.

    `prompt` rows exist when a selection is made; tokens generated later stand behind them and only move along.
    """

    starts: tuple[int, ...]
    width: int
    prompt: int
    origin: Tensor  # [I,width]: place in the uncut span
    positions: Tensor | None = None  # [S] or [axes,S]
    bias: Tensor | None = None  # [S]
    carry: Mapping[str, Tensor] = field(default_factory=dict)  # [1,I,width]
    unit: int = 1  # rows that make one token of a span
    marks: Mapping[str, Tensor] = field(default_factory=dict)  # [1,S]
    valid: Tensor | None = None  # [S]; None: every row holds a token
    rows: Tensor | None = None  # [S]: place before any cut, -1 for merged rows

    @classmethod
    def of(cls, starts: tuple[int, ...], width: int, prompt: int, **more: object) -> Line:
        """A sequence that nobody has cut."""
        return cls(starts, width, prompt, torch.arange(width).expand(len(starts), -1), **more)  # type: ignore[arg-type]

    @property
    def last(self) -> int:
        """The prompt's last row that holds a token."""
        return self.prompt - 1 if self.valid is None else int(self.valid[: self.prompt].nonzero().max())

    def adopt(self) -> Line:
        """The row in front of each span joins it."""
        front = torch.full((len(self.starts), 1), -1)
        return replace(
            self,
            starts=tuple(start - 1 for start in self.starts),
            width=self.width + 1,
            origin=torch.cat([front, self.origin], 1),
            carry={name: torch.cat([0.0 * v[..., :1], v], -1) for name, v in self.carry.items()},
        )

    def cut(
        self, stage: Stage, selection: Selection, hidden: Tensor, chosen: Tensor, *, renumber: bool
    ) -> tuple[Line, Tensor, Tensor]:
        """Walk the sequence span by span and put the new one together.

        Args:
            stage: what is cut.
            selection: how rows are merged.
            hidden: `[1,S,C]`.
            chosen: `[I,keep]` tokens of each span.
            renumber: whether rows are numbered anew.

        Returns:
            The new sequence, its rows, and the place `[S']` where each stood; merged rows name their span's first.
        """
        width, unit, end = (stage.keep or 0) + stage.extra, self.unit, 0
        within = torch.arange(unit)
        rows, places, starts = list[Tensor](), list[Tensor](), list[int]()
        for number, start in enumerate(self.starts):
            rows.append(hidden[0, end:start])
            places.append(torch.arange(end, start))
            starts.append(sum(len(part) for part in rows))
            tokens = hidden[0, start : start + self.width * unit].reshape(self.width, -1)
            kept = _mixed(tokens, chosen[number], stage, selection, number)
            rows.append(kept.reshape(-1, hidden.shape[2]))
            sources = torch.cat([chosen[number].clamp(min=0), torch.zeros(stage.extra, dtype=torch.int64)])
            places.append((start + sources[:, None] * unit + within).flatten())
            end = start + self.width * unit
        rows.append(hidden[0, end:])
        places.append(torch.arange(end, hidden.shape[1]))
        left = replace(
            self,
            starts=tuple(starts),
            width=width,
            prompt=self.prompt - len(starts) * (self.width - width) * unit,
            origin=torch.stack([_origins(o, c, stage.extra) for o, c in zip(self.origin, chosen, strict=True)]),
            carry={name: _carried(values, chosen, stage.extra) for name, values in self.carry.items()},
        )
        source = torch.cat(places)
        return left.moved(source, stage.extra, renumber=renumber), torch.cat(rows)[None], source

    def moved(self, source: Tensor, extra: int, *, renumber: bool) -> Line:
        """What belongs to single rows, taken from `source`; merged rows begin without a past."""
        merged = torch.zeros(len(source), dtype=torch.bool)
        for start in self.starts:
            merged[start + (self.width - extra) * self.unit : start + self.width * self.unit] = True
        moved = replace(
            self,
            bias=None if self.bias is None else self.bias[source].masked_fill(merged, 0.0),
            marks={name: values[:, source].masked_fill(merged, 0) for name, values in self.marks.items()},
            valid=None if self.valid is None else self.valid[source],
            rows=None if self.rows is None else self.rows[source].masked_fill(merged, -1),
        )
        if self.positions is None:
            return moved
        places = torch.arange(len(source))
        places[moved.prompt :] -= moved.prompt - 1 - moved.last if renumber else 0
        return replace(moved, positions=places if renumber else self.positions[..., source].masked_fill(merged, 0))

    def noted(self, selection: Selection, length: int) -> Line:
        """With what a selection says of tokens that all stay, in a sequence of `length` rows."""
        marks, bias = dict(self.marks), self.bias
        for name, values in selection.marks.items():
            marks[name] = torch.cat([values, values.new_zeros(1, length - values.shape[1])], 1)
        if selection.key_bias is not None:
            bias = torch.zeros(length) if bias is None else bias.clone()
            for start, added in zip(self.starts, selection.key_bias[0], strict=True):
                bias[start : start + self.width * self.unit] += added.repeat_interleave(self.unit)
        return replace(self, carry={**self.carry, **selection.carry}, marks=marks, bias=bias)


def _mixed(span: Tensor, chosen: Tensor, stage: Stage, selection: Selection, number: int) -> Tensor:
    """The rows of one span that live on, `[keep+extra,C]`."""
    nothing = span.new_zeros(span.shape[1])
    kept = [span[index] if index >= 0 else nothing for index in chosen.tolist()] + [nothing] * stage.extra
    if selection.mix is not None:
        targets = selection.mix_rows or range(len(chosen), len(kept))
        for row, weights in zip(targets, selection.mix[0, number], strict=True):
            kept[row] = weights.to(span.dtype) @ span
    return torch.stack(kept) if kept else span[:0]


def _origins(origin: Tensor, chosen: Tensor, extra: int) -> Tensor:
    """Places in the uncut span; blanks keep their mark, merged rows get -1."""
    return torch.tensor([int(origin[c]) if c >= 0 else c for c in chosen.tolist()] + [-1] * extra, dtype=torch.int64)


def _carried(values: Tensor, chosen: Tensor, extra: int) -> Tensor:
    rows = [torch.cat([v[c.clamp(min=0)], v.new_zeros(extra)]) for v, c in zip(values[0], chosen, strict=True)]
    return torch.stack(rows)[None]
