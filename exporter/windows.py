"""Windows of consecutive frames whose still places are merged over time, and how a budget spreads over their rows."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from exporter.reducer import Shape


class Windows(NamedTuple):
    """Windows of a video of F frames with L places, each known by its first frame.

    `heads`: frames that may be the first of a window; `reach` `[B,H,F]` fp32: 1 over the window's size at its frames;
    `still` `[B,H,L]` bool: its still places, none where a head is no first frame; `moving` `[B,F,L]` bool: a frame's
    other places.
    """

    heads: list[int]
    reach: Tensor
    still: Tensor
    moving: Tensor


class Split(NamedTuple):
    """Constant windows: `sizes` of them, `still` places in each of two frames or more; rows of every group.

    A group is the still places of a window, or the moving ones of a frame: `merged` and `single` count their rows.
    """

    sizes: list[int]
    still: int
    merged: list[int]
    single: list[int]


def split(shape: Shape, length: int, share: float, keep: int) -> Split:
    """Windows of `length` frames (the last one maybe less), and `keep` rows spread evenly over all that is not merged.

    `share` of the places is still, less where otherwise not so many rows were left.
    """
    views, patches = shape.views, shape.patches
    sizes = [min(length, views - first) for first in range(0, views, length)]
    repeats = sum(sizes) - len(sizes)
    still = min(round(share * patches), (shape.tokens - keep) // repeats) if repeats else 0
    groups = [(still if size > 1 else 0, size) for size in sizes]
    rows = [count for inside, size in groups for count in (inside, *[patches - inside] * size)]
    total = sum(rows)
    ends = [keep * end // total for end in accumulate(rows, initial=0)]
    counts = [after - before for before, after in pairwise(ends)]
    first = list(accumulate((size + 1 for size in sizes), initial=0))[:-1]
    return Split(sizes, still, [counts[at] for at in first], [n for at, n in enumerate(counts) if at not in first])


def constant(sizes: list[int], stability: Tensor, still: int) -> Windows:
    """Windows of constant `sizes`; the `still` places of the largest stability `[B,W,L]` are still in each."""
    from exporter.select import marked, top_k

    heads = list(accumulate(sizes, initial=0))[:-1]
    frame = torch.arange(sum(sizes))
    first, size = torch.tensor(heads)[:, None], torch.tensor(sizes)[:, None]
    reach = ((frame >= first) & (frame < first + size)).float() / size
    places = marked(top_k(stability, still), stability.shape[-1]) > 0 if still else stability > torch.inf
    return _windows(heads, reach.expand(stability.shape[0], -1, -1), places & (size > 1))


def found(together: Tensor, still: Tensor) -> Windows:
    """Windows as the data has them: `together` `[B,F,F]` bool, `still` `[B,F,L]` bool of each frame's window."""
    size = together.sum(-1, keepdim=True)
    heads = list(range(together.shape[-1]))
    first = (together & (torch.arange(len(heads)) < torch.arange(len(heads))[:, None])).sum(-1, keepdim=True) == 0
    return _windows(heads, together.float() / size, still & first & (size > 1))


def _windows(heads: list[int], reach: Tensor, still: Tensor) -> Windows:
    moving = (reach > 0).float().transpose(1, 2) @ still.float() < 0.5  # noqa: PLR2004
    return Windows(heads, reach, still, moving)
