"""Rows in groups of constant sizes, of each of which the best stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from exporter.maths.windows import Split
from exporter.reducer import Stage
from exporter.select import ascending, top_k

Group = tuple[int, int]  # (size, how many stay)


@dataclass(frozen=True)
class Pick(Stage):
    """A cut in the decoder of spans whose `groups` of rows follow each other."""

    groups: tuple[Group, ...] = ()


def sizes(fixed: Split) -> list[int]:
    """Rows of the groups that follow each other: at each window its still ones, then those of its frames."""
    heads = dict(zip(accumulate(fixed.sizes, initial=0), fixed.merged, strict=False))
    pairs = [(heads.get(frame, 0), rows) for frame, rows in enumerate(fixed.single)]
    return [rows for pair in pairs for rows in pair if rows]


def best(scores: Tensor, groups: Sequence[Group]) -> Tensor:
    """`[...,K]` int64 ascending: of each group of `scores` `[...,n]` the largest; ties go to the lower index."""
    firsts = accumulate((size for size, _ in groups), initial=0)
    alike = dict[Group, list[int]]()
    for first, group in zip(firsts, groups, strict=False):
        alike.setdefault(group, []).append(first)
    found = list[Tensor]()
    for (size, stay), places in alike.items():
        if stay:
            starts = torch.tensor(places)[:, None]
            rows = scores.index_select(-1, (starts + torch.arange(size)).flatten())
            found.append((top_k(rows.reshape(*rows.shape[:-1], -1, size), stay) + starts).flatten(-2))
    return ascending(torch.cat(found, -1))
