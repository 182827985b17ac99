"""The windows of a video that save most when the places that stand still in each become one row (HoliTom)."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from exporter.maths.windows import together


def stillness(alike: Tensor, threshold: float) -> Tensor:
    """`[B,F,L]` fp32: for how many steps up to each frame a place stood still: all cosines `[B,F-1,L]` above."""
    step, frame = torch.arange(alike.shape[1]), torch.arange(alike.shape[1] + 1)[:, None]
    moved = (alike <= threshold) * (step + 1.0)[:, None]  # the number of a step that moves
    last = (moved.unsqueeze(1) * (step < frame).unsqueeze(-1)).amax(2)
    return frame - last


def best_windows(still: Tensor, longest: int) -> Tensor:
    """`[B,F,F]` bool: whether two frames share a window, of the windows of most gain altogether.

    A window of s steps up to frame e gains s for each place with `still[e] >= s` `[B,F,L]` fp32. Of equal choices the
    shorter last window wins.
    """
    frames = still.shape[1]
    step = torch.arange(frames)
    gain = (still.unsqueeze(2) >= step[:, None]).float().sum(-1) * step
    best = torch.zeros(still.shape[0], 1)  # the most that the frames before f gain, then those before f - 1, ...
    steps = list[Tensor]()
    for frame in range(frames):
        most = min(frame + 1, longest)
        choices = best[:, :most] + gain[:, frame, :most]
        steps.append(choices.argmax(-1))
        best = torch.cat([choices.amax(-1, keepdim=True), best], -1)
    return together(_ends(torch.stack(steps, -1))[:, :-1])


def _ends(steps: Tensor) -> Tensor:
    """`[B,F]` bool: last frames of the windows, from the steps `[B,F]` of the best window up to each frame.

    From a last frame there is one way back to the last frame before it; squaring the matrix of ways follows them all.
    """
    frames = torch.arange(steps.shape[-1])
    back = (frames[:, None] - steps.unsqueeze(-1) - 1) == frames
    ways = back.float() + torch.eye(len(frames))
    for _ in range((len(frames) - 1).bit_length()):
        ways = (ways @ ways).clamp(max=1)
    return ways[:, -1] > 0


def held(together: Tensor, still: Tensor) -> Tensor:
    """`[B,F,L]` bool: whether a place stood still in every step `[B,F-1,L]` bool inside the window of each frame."""
    inside = together[..., :-1] & together[..., 1:]
    return inside.float() @ (~still).float() == 0


def steadiness(alike: Tensor, sizes: list[int]) -> Tensor:
    """`[B,W,L]` fp32: the least of the cosines `[B,F-1,L]` inside each window; of no meaning for a single frame."""
    ends = list(accumulate(sizes))
    inside = [alike[:, end - size : max(end - 1, end - size + 1)] for size, end in zip(sizes, ends, strict=True)]
    return torch.stack([window.amin(1) if window.shape[1] else alike[:, 0] for window in inside], 1)
