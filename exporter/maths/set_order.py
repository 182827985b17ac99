"""The order in which CPython walks through a set of small integers, as tensors: some methods' code depends on it."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.select import gather_rows

LARGEST = 18  # one more and the table of a set grows to 128 slots
RUN = 10  # neighbouring slots that a probe tries before it jumps
JUMPS = 12  # enough for every set of up to `LARGEST` numbers below 2^15


def set_order(numbers: Tensor) -> Tensor:
    """Places of `numbers` in the order of `list(set(numbers))`: int64 `[...,P]` both, all different and in [0, 2^15).

    A set starts with 8 slots and gets 32 with its fifth number, when what it holds is put in again slot by slot. A
    number takes the first free slot of: its own residue and, unless the table ends, the 9 slots behind it; then a jump
    to `5 i + 1 + (number >> 5)`, and so on (Objects/setobject.c of CPython 3.7 to 3.14).
    """
    count = numbers.shape[-1]
    places = torch.arange(count).expand(numbers.shape)
    small = _slots(numbers[..., :5], 8).sort(-1).indices
    if count < 5:
        return small
    places = torch.cat([small, places[..., 5:]], -1)
    return gather_rows(places, _slots(gather_rows(numbers, places), 32).sort(-1).indices)


def _slots(numbers: Tensor, size: int) -> Tensor:
    """The slot `[...,P]` that each number gets in a table, put in one after another."""
    tried = _probes(numbers, size)
    taken = torch.zeros(*numbers.shape[:-1], size)
    slots = []
    for choice in tried.unbind(-2):
        full = torch.gather(taken, -1, choice)
        slot = torch.gather(choice, -1, full.argmin(-1, keepdim=True))
        taken = taken.scatter(-1, slot, 1.0)
        slots.append(slot)
    return torch.cat(slots, -1)


def _probes(numbers: Tensor, size: int) -> Tensor:
    """`[...,P,C]`: slots in the order in which they are tried.

    The jumps written out: the k-th ends at `5^k n + (5^(k-1) + .. + 1) + 5^(k-1) (n >> 5) + 5^(k-2) (n >> 10)`.
    """
    powers = [pow(5, k, 32) for k in range(JUMPS)]
    sums = [sum(powers[:k]) for k in range(JUMPS)]
    once, twice = [0, *powers[:-1]], [0, 0, *powers[:-2]]
    number = numbers[..., None]
    place = number * torch.tensor(powers) + torch.tensor(sums)
    place = place + (number // 32) * torch.tensor(once) + (number // 1024) * torch.tensor(twice)
    slot = (place % size)[..., None]
    run = torch.arange(RUN if size > RUN else 1)
    return (slot + torch.where(slot + RUN <= size, run, 0)).flatten(-2)
