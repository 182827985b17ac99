"""Tokens that fold into kept ones, one after the other, each time half and half (HoliTom's stage in the decoder)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.select import gather_rows


def fold(rows: Tensor, kept: Tensor) -> Tensor:
    """`mix` `[...,k,N]` of rows `[...,N,C]`: every row j that is not `kept` `[...,k]` int64 joins the most alike one.

    In ascending order of j `h_t = (h_t + h_j) / 2`, with t by the cosines before any merge, ties to the first kept one.
    In closed form the q-th of m that join weighs `2^-(m-q+1)`, and the kept row itself `2^-m`.
    """
    itself = (kept.unsqueeze(-1) == torch.arange(rows.shape[-2])).float()
    unit = normalize(rows.float(), dim=-1)
    alike = gather_rows(unit, kept) @ unit.transpose(-1, -2)
    nearest = alike.argmax(-2, keepdim=True) == torch.arange(kept.shape[-1])[:, None]
    joined = nearest * (1 - itself.sum(-2, keepdim=True))
    count = joined.sum(-1, keepdim=True)
    behind = count - joined.cumsum(-1)  # how many join after j
    return joined * torch.exp2(-behind - 1) + itself * torch.exp2(-count)
