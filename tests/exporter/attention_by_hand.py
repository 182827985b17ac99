"""Attention one query, one head and one key at a time: what masks and taps are compared with."""

import math

import numpy as np

LOWEST = float(np.finfo(np.float32).min)


def by_hand(q, k, scale, valid=None, bias=None):
    """Logits and softmax `[B,H,n,n]` for `q` `[B,H,n,d]` and `k` `[B,Hkv,n,d]`; causal if `valid` `[B,n]` is given."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    batch, heads, length, _ = q.shape
    logits, weights = np.full((2, batch, heads, length, length), LOWEST)
    serves = heads // k.shape[1]
    for b, h, i in np.ndindex(batch, heads, length):
        seen = [j for j in range(length) if valid is None or (j <= i and valid[b][j])]
        for j in seen:
            added = 0.0 if bias is None else float(bias[b][j])
            logits[b, h, i, j] = sum(q[b, h, i] * k[b, h // serves, j]) * scale + added
        total = sum(math.exp(logits[b, h, i, j]) for j in seen)
        weights[b, h, i] = [math.exp(logits[b, h, i, j]) / total if j in seen else 0 for j in range(length)]
    return logits, weights
