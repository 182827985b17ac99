"""What the text behind a picture looks at: attention of all its rows over the span."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.reducer import Taps
from exporter.select import gather_rows

TINY = torch.finfo(torch.float32).tiny


def behind(taps: Taps) -> tuple[Tensor, Tensor]:
    """Places `[B,R]` int64 of the rows in no span, and 1.0 for those of text behind each span, fp32 `[B,I,R]`."""
    places = taps.outside
    there = gather_rows(taps.valid.float(), places)
    return places, (places[:, None] > taps.span[..., -1:]).float() * there[:, None]


def loudest(taps: Taps, layer: int) -> Tensor:
    """`[B,I,N]` fp32: the most attention of `layer` that any head of any text row behind the span pays to a token."""
    places, text = behind(taps)
    attention = taps.span_of(taps.rows(layer, places))  # [B,I,H,R,N]
    return (attention * text[:, :, None, :, None]).amax((2, 3))


def dual(taps: Taps, layer: int) -> tuple[Tensor, Tensor]:
    """`[B,I,N]` fp32 each, of the head mean of `layer`: a token's share in all attention of the text, and its maximum.

    The text is the rows behind the span; shares sum to 1.
    """
    places, text = behind(taps)
    attention = taps.span_of(taps.rows(layer, places).mean(1)) * text[..., None]  # [B,I,R,N]
    total = attention.sum(2)
    return total / total.sum(-1, keepdim=True).clamp(min=TINY), attention.amax(2)
