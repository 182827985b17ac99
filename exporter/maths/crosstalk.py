"""How much text and pictures still attend to each other in a layer of the decoder (ToDRE, stage 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.maths.words import behind
from exporter.reducer import Taps
from exporter.select import marked


def crosstalk(taps: Taps, layer: int) -> tuple[Tensor, Tensor]:
    """`[B]` fp32 each: the share of attention that text pays to pictures, and the share that pictures pay to text.

    Means over heads and rows of their kind. Text is what stands behind the first picture and in none; what stands
    before it is the system's. A lone picture sees no text behind it, which needs no rows.
    """
    places, text = behind(taps)
    text = text[:, 0]
    seen = taps.span_of(taps.rows(layer, places).mean(1)).sum((1, 3))  # [B,R]
    to_pictures = (seen * text).sum(-1) / text.sum(-1).clamp(min=1)
    if taps.span.shape[1] == 1:
        return to_pictures, torch.zeros_like(to_pictures)
    return to_pictures, _to_text(taps, layer)


def _to_text(taps: Taps, layer: int) -> Tensor:
    length = taps.valid.shape[1]
    text = taps.valid.float() * (1 - marked(taps.span.flatten(1), length))
    text = text * (torch.arange(length) > taps.span[:, 0, -1:]).float()
    there = taps.span_of(taps.valid.float())  # [B,I,N]
    total = torch.zeros(there.shape[0])
    for number in range(there.shape[1]):  # one picture's rows at a time: they are many
        seen = (taps.rows(layer, taps.span[:, number]).mean(1) @ text[..., None])[..., 0]
        total = total + (seen * there[:, number]).sum(-1)
    return total / there.sum((1, 2)).clamp(min=1)
