"""How alike the tokens of a span are, and the text that they are compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from exporter.reducer import Taps


def cosines(rows: Tensor) -> Tensor:
    """`[...,n,n]` fp32 cosines of all pairs of rows `[...,n,C]`; a row of zeros has cosine 0 with every row."""
    unit = normalize(rows.float(), dim=-1)
    return unit @ unit.transpose(-1, -2)


def mean_text(taps: Taps) -> Tensor:
    """`[B,D]` fp32: mean of the prompt's input embeddings without the pictures'; zeros without a text."""
    weights = taps.inputs["text_mask"].float()
    total = torch.einsum("bw,bwd->bd", weights, taps.inputs["text"].float())
    return total / weights.sum(1, keepdim=True).clamp(min=1)
