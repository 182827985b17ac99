"""Exportable selection primitives: what methods rank with."""

from __future__ import annotations

import torch
from torch import Tensor

DOMAIN = "tp.export"


def top_k(scores: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` largest scores of each row, in ascending order; ties go to the lower index.

    `scores` `[..., n]` is ranked in fp32; returns int64 `[..., keep]`. While exporting this is one marker node,
    `tp.export::Select`, which the last graph pass lowers to TopK and an ascending sort.
    """
    scores = scores.float()
    if torch.compiler.is_exporting():
        shape = [*scores.shape[:-1], keep]
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::Select", (scores,), {"k": keep}, dtype=torch.int64, shape=shape, version=1
        )
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    return order[..., :keep].sort(dim=-1).values


def gather_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` `[..., k]` of `values` `[..., n, *tail]`, batched over the leading axes: `[..., k, *tail]`."""
    axis = indices.dim() - 1
    tail = values.shape[axis + 1 :]
    index = indices.reshape(*indices.shape, *(1 for _ in tail)).expand(*indices.shape, *tail)
    return torch.gather(values, axis, index)
