"""Weighted PageRank on attention maps: the importance of each token to those that matter, head by head."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.reducer import Taps


def attention_graph(taps: Taps, layer: int) -> Tensor:
    """`[B,H,n,n]` fp32: the attention of all tokens of one view to each other, with [CLS] in front; rows sum to 1.

    Where several rows make one token, the mean of their rows and the sum of their columns.
    """
    every = torch.arange(taps.valid.shape[1]).expand(taps.valid.shape)
    attention = taps.rows(layer, every)
    if taps.shape.has_cls:
        return attention
    columns = taps.span_of(attention)[:, 0]
    attention = taps.span_of(columns.transpose(2, 3))[:, 0].transpose(2, 3)
    return attention / attention.sum(-1, keepdim=True)


def weighted_pagerank(attention: Tensor, start: Tensor, alive: Tensor, steps: int) -> Tensor:
    """`[B,H,n]`: `s <- A^T s` repeated `steps` times from `start` `[B,n]`, on the graph of the `alive` `[B,n]` alone.

    `attention` `[B,H,n,n]` has its rows normalised anew after the others' columns went; only who is alive has a start;
    s sums to 1. Steps are a power of two: squaring the matrix gives the same in a few products.
    """
    walk = attention * alive[:, None, None]
    walk = walk / walk.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    for _ in range(steps.bit_length() - 1):
        walk = walk @ walk
    first = (start / start.sum(-1, keepdim=True))[:, None, None]
    return (first @ walk)[:, :, 0]


def importance(scores: Tensor, alive: Tensor, low: float, high: float) -> Tensor:
    """`[B,n]`: root mean square over the heads whose variance is in [low, high]; over all heads if none is.

    `scores` `[B,H,n]` sum to 1 over the `alive` `[B,n]`; the variance is that of `n * scores`, whose mean is 1.
    """
    count = alive.sum(-1)[:, None]
    spread = (scores * count[:, None] - 1) * alive[:, None]
    variance = (spread * spread).sum(-1) / count
    heads = ((variance >= low) & (variance <= high)).float()
    heads = heads + (heads.sum(1, keepdim=True) == 0).float()
    return ((heads[..., None] * scores * scores).sum(1) / heads.sum(1)[:, None]).sqrt()
