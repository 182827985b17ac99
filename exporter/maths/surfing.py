"""PageRank on the sharpened attention of a decoder layer (AIM): where a walk from token to token ends up."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.reducer import Taps


def surfed(taps: Taps, layer: int, tau: float, steps: int, damping: float) -> Tensor:
    """`[B,S]` fp32: root mean square over heads of pi, `pi <- (1 - d) pi M + d / n` from pi = 1 / n, n the valid rows.

    `M = softmax(Z / tau)`, Z the masked logits of all rows; padding has no part in it.
    """
    valid = taps.valid.float()
    every = torch.arange(valid.shape[1]).expand(valid.shape)
    logits = taps.rows(layer, every, logits=True) / tau
    walk = logits.clamp(min=torch.finfo(torch.float32).min).softmax(-1)
    start = (valid / valid.sum(1, keepdim=True))[:, None, None]
    found = start.expand(-1, walk.shape[1], -1, -1)
    for _ in range(steps):
        found = (found @ walk) * (1 - damping) + damping * start
    return found.square().mean(1).sqrt()[:, 0]
