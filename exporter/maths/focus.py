"""What matters in a picture by itself: attention of the tokens that many look at, and how mixed the pixels are."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.reducer import Grid, Taps

GREY, LEAST = 0.3333, 1e-10


def focus(taps: Taps, layer: int, threshold: float) -> Tensor:
    """`[B,I,N]` fp32: attention of a tower layer, mean over heads and over the queries of the global tokens.

    Global are the patches that receive more than `threshold` times the mean over patches; the one that receives most is
    among them.
    """
    every = torch.arange(taps.valid.shape[1]).expand(taps.valid.shape)
    seen = taps.rows(layer, every).mean(1)  # [B,n,n]
    patch = every >= taps.span[:, 0, :1]
    received = torch.where(patch, seen.mean(1), 0.0)
    level = received.sum(-1, keepdim=True) / patch.float().sum(-1, keepdim=True)
    chosen = (received > threshold * level) | (received >= received.amax(-1, keepdim=True))
    weights = chosen.float()[:, None]
    return taps.span_of((weights @ seen)[:, 0] / weights.sum(-1))


def entropies(pixels: Tensor, grid: Grid) -> Tensor:
    """`[B,N]` fp32: of the grey levels of each patch of `pixels` `[B,3,H,W]`, in bits.

    As the authors' code has it: values times 255, cut to whole numbers modulo 256, whatever their range.
    """
    down, across = pixels.shape[2] // grid.rows, pixels.shape[3] // grid.cols
    pixels = pixels[:, :, : grid.rows * down, : grid.cols * across].float()
    whole = (pixels * 255).to(torch.int64).float()
    level = ((whole - 256 * (whole / 256).floor()).sum(1) * GREY).round().to(torch.int64)
    patches = level.reshape(-1, grid.rows, down, grid.cols, across).transpose(2, 3).flatten(3).flatten(1, 2)
    counts = torch.zeros(*patches.shape[:2], 256).scatter_add(-1, patches, torch.ones(patches.shape))
    share = counts / (down * across)
    return -(share * share.clamp(min=LEAST).log2()).sum(-1)
