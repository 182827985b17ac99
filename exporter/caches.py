"""What decoding finds of each layer: keys and values, and which slots of them hold tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from exporter.masks import last_place
from exporter.select import gather_rows
from exporter.sequence import Sequence

KV = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Group:
    """Decoder layers `first` to `end - 1`, whose caches have equal length; `tokens` rows of one image are in it.

    `fixed` slots where the cache alone was cut: then text and pictures are both among them.
    """

    first: int
    end: int
    tokens: int
    fixed: int | None = None

    @property
    def layers(self) -> range:
        """The layer numbers."""
        return range(self.first, self.end)


@dataclass(frozen=True)
class Cached:
    """One layer's cache. `slots` `[B,K]` bool: which are valid, where the cache alone was cut to K of them.

    `full` is the sequence whose positions go on, where that is another: of a layer that ran on some of it, the last row
    may be among those that passed it by; of a cache that is cut later, keys keep the numbers that they were turned by.
    """

    key: Tensor
    value: Tensor
    sequence: Sequence  # the rows that are in it
    ran: int  # rows of one span that the layer ran on
    slots: Tensor | None = None
    full: Sequence | None = None

    @property
    def fixed(self) -> int | None:
        """K, where the cache alone was cut."""
        return None if self.slots is None else int(self.slots.shape[1])

    @property
    def valid(self) -> Tensor:
        """`[B,n]` bool by slot."""
        found = self.sequence.valid if self.slots is None else self.slots
        assert found is not None
        return found

    @property
    def bias(self) -> Tensor:
        """`[B,n]` fp32, added to the logits of these slots."""
        return torch.zeros(self.valid.shape) if self.sequence.bias is None else self.sequence.bias

    @property
    def next_position(self) -> Tensor:
        """`[B,1]`: one more than the last valid row's, on the axis where it is largest."""
        sequence = self.full or self.sequence
        assert sequence.valid is not None
        assert sequence.positions is not None
        last = gather_rows(sequence.positions, last_place(sequence.valid))
        return (last if last.dim() == sequence.valid.dim() else last.amax(-1)) + 1

    def picked(self, indices: Tensor) -> Cached:
        """The slots `[B,Hkv,K]` of each key head; valid ones come first, as many in every head."""
        key, value = chosen((self.key, self.value), indices)
        return replace(self, key=key, value=value, slots=filled(self.valid, indices))

    def reduced(self, alive: Sequence) -> Cached:
        """The slots of the rows that are alive, all of which the layer ran on."""
        mine, left = self.sequence.rows, alive.rows
        assert mine is not None
        assert left is not None
        where = (left[:, :, None] == mine[:, None, :]).to(torch.int64).argmax(-1)  # [B,S']
        each = where[:, None].expand(-1, self.key.shape[1], -1)
        key, value = gather_rows(self.key, each), gather_rows(self.value, each)
        return Cached(key, value, alive, self.ran, full=self.full or self.sequence)

    def span_slots(self, tokens: int) -> Tensor:
        """`[B,I,tokens]` int64: the slot of each token of the uncut spans, -1 for those that are gone."""
        seen = self.sequence
        places = torch.full((*seen.origin.shape[:2], tokens + 1), -1, dtype=torch.int64)
        own = torch.where(seen.origin >= 0, seen.origin, tokens)  # merged rows stand for no one token
        return places.scatter(2, own, seen.span)[..., :tokens]

    @property
    def numbering(self) -> int:
        """Which of the countings its positions are from."""
        return (self.full or self.sequence).numbering


def chosen(past: KV, indices: Tensor) -> KV:
    """Keys and values `[B,Hkv,n,d]` at `[B,Hkv,K]`; what an empty slot (-2) holds does not matter."""
    places = indices.clamp(min=0)
    return gather_rows(past[0], places), gather_rows(past[1], places)


def filled(valid: Tensor, indices: Tensor) -> Tensor:
    """`[B,K]` bool: which of the slots chosen hold a token, of `[B,n]` that do; the same in every head."""
    first = indices[:, 0]
    return gather_rows(valid.to(torch.int64), first.clamp(min=0)) * (first >= 0) > 0


def groups_of(caches: list[Cached]) -> tuple[Group, ...]:
    """Runs of layers whose caches have the same slots and key bias: a new one wherever either may have changed.

    A cut that keeps every token is one, too: another part for the same prompts may keep fewer there.
    """
    changes = [number for number, pair in enumerate(pairwise(caches), 1) if _differ(*pair)]
    edges = [0, *changes, len(caches)]
    return tuple(Group(first, end, caches[first].sequence.width, caches[first].fixed) for first, end in pairwise(edges))


def _differ(one: Cached, other: Cached) -> bool:
    a, b = one.sequence, other.sequence
    return (
        a.origin is not b.origin or a.bias is not b.bias or one.fixed != other.fixed or one.numbering != other.numbering
    )
