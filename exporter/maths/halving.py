"""Rows that merge in halves (AIM): every second row flows into the most alike of the others, the best pairs first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.select import gather_rows, marked, ranked


def halved(rows: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """What is left of rows `[...,n,C]`: `[...,keep]` int64, the place of each, and `[...,keep,n]`, what it is made of.

    Until `keep` are left: even rows each go to the odd row of the largest cosine; of these pairs the
    `min(n - keep, n // 2)` best merge, the odd row becoming the plain mean of itself and all that come. Then unmerged
    even rows stand in front, the most alike first, and odd rows behind them.
    """
    length = rows.shape[-2]
    place, mix = torch.arange(length).expand(rows.shape[:-1]), torch.eye(length).expand(*rows.shape[:-1], length)
    while place.shape[-1] > keep:
        unmerged, joined = _pairs(rows, min(place.shape[-1] - keep, place.shape[-1] // 2))
        rows, mix = _merged(rows, unmerged, joined), _merged(mix, unmerged, joined)
        place = torch.cat([gather_rows(place[..., ::2], unmerged), place[..., 1::2]], -1)
    return place, mix


def _pairs(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Even rows that stay, `[...,u]`, and `[...,odd,even]`: 1.0 where one of the `count` others joins an odd row."""
    unit = normalize(rows, dim=-1)
    best, target = (unit[..., ::2, :] @ unit[..., 1::2, :].transpose(-1, -2)).max(-1)
    order = ranked(best, best.shape[-1])
    leaving = marked(order[..., :count], best.shape[-1])
    joined = target.unsqueeze(-2) == torch.arange(rows.shape[-2] // 2)[:, None]
    return order[..., count:], joined * leaving.unsqueeze(-2)


def _merged(rows: Tensor, unmerged: Tensor, joined: Tensor) -> Tensor:
    means = (rows[..., 1::2, :] + joined @ rows[..., ::2, :]) / (joined.sum(-1, keepdim=True) + 1)
    return torch.cat([gather_rows(rows[..., ::2, :], unmerged), means], -2)
