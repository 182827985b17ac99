"""Choices of a count that only the data knows, in slots that are filled from the front."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = -2  # a slot without a token, see `exporter.reducer.Stage`


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
