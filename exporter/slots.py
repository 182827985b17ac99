"""Choices of a count that only the data knows: ranks to compare with it, and slots that are filled from the front."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = -2  # a slot without a token, see `exporter.reducer.Stage`


def ranks(scores: Tensor) -> Tensor:
    """Place of every score `[..., n]` in ascending order, int64 `[..., n]`; ties go to the lower index.

    By comparing all pairs, n^2 of them: for rows of a frame or a window, not of a whole video.
    """
    scores = scores.float()
    other, own = scores.unsqueeze(-2), scores.unsqueeze(-1)
    earlier = torch.ones(scores.shape[-1], scores.shape[-1]).tril(-1) > 0  # [own, other]
    return ((other < own) | ((other == own) & earlier)).sum(-1)


def packed(chosen: Tensor, slots: int) -> Tensor:
    """Indices of the true entries of `[..., n]` bool in ascending order, int64 `[..., slots]`, then `EMPTY`.

    Where more than `slots` are true the last ones are lost.
    """
    index = torch.arange(chosen.shape[-1]).expand(chosen.shape)
    among = chosen.to(torch.int64).cumsum(-1)  # true entries up to here
    count = among[..., -1:]
    # true entries in front and the others behind them: every entry has a place of its own
    place = torch.where(chosen, among - 1, count + index - among)
    order = torch.zeros_like(index).scatter(-1, place, index)
    order = torch.nn.functional.pad(order, (0, max(0, slots - order.shape[-1])))[..., :slots]
    return torch.where(torch.arange(slots) < count, order, EMPTY)
