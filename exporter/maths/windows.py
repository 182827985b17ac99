"""Windows of consecutive frames whose still places are merged over time, and how a budget spreads over their rows."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from exporter.reducer import Shape
from exporter.select import marked, top_k


class Windows(NamedTuple):
    """Windows of a video of F frames with L places, each known by its first frame.

    `heads`: the frames that may be the first of a window; `reach` `[B,H,F]` fp32: of a window's n frames 1/n each;
    `still` `[B,H,L]` bool: its still places, none where a head is no first frame; `moving` `[B,F,L]` bool: a frame's
    other places.
    """

    heads: list[int]
    reach: Tensor
    still: Tensor
    moving: Tensor


class Split(NamedTuple):
    """Constant windows of `sizes` frames with `still` places; rows of each window's still places and of each frame."""

    sizes: list[int]
    still: int
    merged: list[int]
    single: list[int]


def split(shape: Shape, length: int, share: float, keep: int) -> Split:
    """Windows of `length` frames (the last one maybe less), and `keep` rows spread evenly over all that is not merged.

    `share` of the places is still, less where otherwise not so many rows were left; none in a window of one frame.
    """
    views, patches = shape.views, shape.patches
    sizes = [min(length, views - first) for first in range(0, views, length)]
    repeats = views - len(sizes)
    still = min(round(share * patches), (shape.tokens - keep) // repeats) if repeats else 0
    windows = [[still, *[patches - still] * size] if size > 1 else [0, patches] for size in sizes]
    ends = list(accumulate((rows for window in windows for rows in window), initial=0))
    counts = iter([after - before for before, after in pairwise(keep * end // ends[-1] for end in ends)])
    merged, single = list[int](), list[int]()
    for size in sizes:
        merged.append(next(counts))
        single += [next(counts) for _ in range(size)]
    return Split(sizes, still, merged, single)


def constant(sizes: list[int], stability: Tensor, still: int) -> Windows:
    """Windows of constant `sizes`; the `still` places of the largest stability `[B,W,L]` are still in each."""
    frames, size = inside(sizes), torch.tensor(sizes)[:, None]
    places = marked(top_k(stability, still), stability.shape[-1]) if still else torch.zeros_like(stability)
    heads = list(accumulate(sizes, initial=0))[:-1]
    return _windows(heads, (frames / size).expand(stability.shape[0], -1, -1), (places > 0) & (size > 1))


def inside(sizes: list[int]) -> Tensor:
    """`[W,F]` fp32: 1 for the frames of each window, of their `sizes`."""
    window = torch.tensor([number for number, size in enumerate(sizes) for _ in range(size)])
    return (torch.arange(len(sizes))[:, None] == window).float()


def blend(weights: Tensor, video: Tensor) -> Tensor:
    """`[B,H,L,D]`: weighted sums of frames, place by place, of rows `[B,F,L,D]`; `weights` `[B,H,F]`."""
    return (weights @ video.flatten(2)).reshape(video.shape[0], -1, *video.shape[2:])


def found(together: Tensor, still: Tensor) -> Windows:
    """Windows that the data made: `together` `[B,F,F]` bool, and `still` `[B,F,L]` bool of the window of each frame."""
    size = together.sum(-1, keepdim=True)
    frame = torch.arange(together.shape[-1])
    first = ~(together & (frame < frame[:, None])).any(-1, keepdim=True)
    return _windows(list(range(len(frame))), together / size, still & first & (size > 1))


def _windows(heads: list[int], reach: Tensor, still: Tensor) -> Windows:
    held = (reach > 0).float().transpose(1, 2) @ still.float()
    return Windows(heads, reach, still, held == 0)


def together(cuts: Tensor) -> Tensor:
    """`[B,F,F]` bool: whether two frames share a window, of `[B,F-1]` bool: whether one ends between neighbours."""
    window = pad(cuts.to(torch.int64).cumsum(-1), (1, 0))
    return window.unsqueeze(-1) == window.unsqueeze(-2)


def quotas(windows: Windows, asked: Fraction) -> tuple[Tensor, Tensor]:
    """Rows that windows `[B,H]` and frames `[B,F]` leave of T not merged in time, int64.

    With `R = min(1, asked / T)`: n still places leave `round(n R)`, halves to even, n moving ones `ceil(n R)`.
    """
    still, moving = windows.still.sum(-1), windows.moving.sum(-1)
    total = moving.sum(-1, keepdim=True) + still.sum(-1, keepdim=True)
    part, whole = asked.numerator, asked.denominator * total
    double = 2 * still * part + whole
    tie = (double % (2 * whole) == 0).to(torch.int64)
    merged = double // (2 * whole)
    merged = merged - tie * (merged % 2)
    single = (moving * part + whole - 1) // whole
    return torch.minimum(merged, still), torch.minimum(single, moving)
