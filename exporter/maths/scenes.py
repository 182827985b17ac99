"""Scenes of a video: clusters of alike frames, made contiguous (PruneVid)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from exporter.maths.cluster import members, prominence
from exporter.maths.density import distances
from exporter.maths.windows import blend, together
from exporter.select import ranked


def scenes(features: Tensor, count: int, neighbours: int) -> Tensor:
    """`[B,F]` int64: cluster of each frame, of features `[B,F,C]`: `count` of them, that of the highest peak is 0."""
    squares = distances(features.float())
    every = torch.ones_like(squares[..., 0]) > 0
    centres = ranked(prominence(squares, every, neighbours), count)
    return members(squares, every, centres).argmax(1)


def contiguous(labels: Tensor) -> Tensor:
    """`[B,F]` int64: labels of which each frame away from its cluster's longest run takes another.

    A longest run of one frame does not count. From left to right, every gap takes the label of the longer run of equal
    labels beside it, the left one if they are of one length, 0 if there is none.
    """
    views = labels.shape[-1]
    frame = torch.arange(views)
    run = together(labels[:, 1:] != labels[:, :-1])
    alike = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    length = run.sum(-1)
    longest = (alike * length.unsqueeze(-2)).amax(-1)
    kept = (length == longest) & (longest > 1)
    ahead = torch.where(kept.unsqueeze(-2) & (frame >= frame[:, None]), frame, views).amin(-1)  # next kept frame
    place = ahead.clamp(max=views - 1)
    after = pad((~kept[:, :-1]).to(torch.int64), (1, 0))  # frames behind one without a run
    strength = length.gather(-1, place) * (ahead < views) * (1 - after)  # of the run behind a gap, where it begins
    strength = torch.where(kept, views + 1, strength)
    return _filled(labels.gather(-1, place), strength)


def _filled(target: Tensor, strength: Tensor) -> Tensor:
    """Each frame's label: that of the run before it if it is as long as `strength`, else `target`; `[B,F]` int64."""
    label, size = torch.zeros_like(target[:, :1]), torch.zeros_like(target[:, :1])
    labels = list[Tensor]()
    for frame in range(target.shape[-1]):
        here = slice(frame, frame + 1)
        chosen = torch.where(size >= strength[:, here], label, target[:, here])
        size = (chosen == label) * size + 1
        label = chosen
        labels.append(label)
    return torch.cat(labels, -1)


def agreement(video: Tensor, inside: Tensor) -> Tensor:
    """`[B,H,L]` fp32: mean cosine of all pairs of different frames of a window, place by place; -1 for one frame.

    `video` `[B,F,L,D]`; `inside` `[B,H,F]` fp32: 1 for each of a window's frames.
    """
    unit = normalize(video, dim=-1, eps=1e-8)
    total = blend(inside, unit).square().sum(-1)
    size = inside.sum(-1, keepdim=True)
    return torch.where(size > 1, (total - size) / (size * (size - 1)).clamp(min=1), -1.0)
