"""A cascade: how many tokens each layer runs on, known beforehand, and which of them never go."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import torch
from torch import Tensor

DENSE = Fraction("0.15")  # of the layers, the first, run on everything


def falling_line(tokens: int, keep: int, layers: int, spread: float) -> dict[int, int]:
    """Tokens of each layer behind the dense ones: shares on a line from r_start down to r_end, their mean r_avg.

    `r_avg = keep / tokens`, `r_start = r_avg (1 + spread)`, 1 at most, and `r_start + r_end = 2 r_avg`; rounded down.
    """
    first = min(ceil(DENSE * layers), layers - 1)
    mean, count = Fraction(keep, tokens), layers - first
    start = min(mean * (1 + Fraction(str(spread))), Fraction(1)) if count > 1 else mean
    step = 2 * (start - mean) / max(count - 1, 1)
    return {first + turn: max(1, floor(tokens * (start - turn * step))) for turn in range(count)}


def learned_token_pruning(tokens: int, keep: int, layers: int) -> dict[int, int]:
    """Likewise of Learned Token Pruning: three dense layers or more, and `keep` tokens in the last layer.

    `round(tokens r)`, `r = max(0.01, 1 + (keep / tokens - 1) (layer - dense + 1) / (layers - dense))`.
    """
    first = max(1, min(max(3, ceil(DENSE * layers)), layers - 1))
    step = (Fraction(keep, tokens) - 1) / (layers - first)
    shares = {layer: max(Fraction(1, 100), 1 + step * (layer - first + 1)) for layer in range(first, layers)}
    return {layer: max(1, round(tokens * share)) for layer, share in shares.items()}


def held(scores: Tensor, valid: Tensor) -> Tensor:
    """`[B,I,N]` with the last token of `valid` `[B,I,N]` above all others and padding below."""
    place = torch.arange(valid.shape[2])
    last = torch.where(valid, place, 0).amax(-1, keepdim=True)
    return torch.where(place == last, scores.amax(-1, keepdim=True) + 1, torch.where(valid, scores, -1.0))
