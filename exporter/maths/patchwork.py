"""Rows of a video that mix places and frames, one after the other: the selection that makes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from exporter.maths.slots import EMPTY, packed
from exporter.reducer import Selection
from exporter.select import gather_rows


class Patches(NamedTuple):
    """M rows in each of G groups: `sum_f frames[g,f] sum_i places[g,m,i] x[f,i]`.

    `at`: the frame each group stands at; `frames` `[B,G,F]`, `places` `[B,G,M,L]` fp32; `centres` `[B,G,M]` int64: the
    place where a row stands, negative where there is no row.
    """

    at: list[int]
    frames: Tensor
    places: Tensor
    centres: Tensor


def patchwork(first: Patches, then: Patches, slots: int) -> Selection:
    """All rows in order of time, at each frame the `first` ones, in `slots` that are filled from the front.

    The index of a row is that of its centre in its group's frame.
    """
    at = [*first.at, *then.at]
    order = torch.tensor(sorted(range(len(at)), key=at.__getitem__))
    frames, places, centres = (
        torch.cat(pair, 1).index_select(1, order) for pair in zip(first[1:], then[1:], strict=True)
    )
    each, length = places.shape[2:]
    filled = packed((centres >= 0).flatten(1), slots)
    row = filled.clamp(min=0)
    frames = frames.unsqueeze(2).expand(-1, -1, each, -1)
    time, place = (gather_rows(weights.flatten(1, 2), row) for weights in (frames, places))
    mix = (time * (filled >= 0).unsqueeze(-1)).unsqueeze(-1) * place.unsqueeze(-2)
    stands = centres + torch.tensor(at)[order][:, None] * length
    index = torch.where(filled < 0, EMPTY, gather_rows(stands.flatten(1), row))
    return Selection(indices=index[:, None], mix=mix.flatten(2)[:, None], mix_rows=tuple(range(slots)))
