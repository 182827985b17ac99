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
    return ranked(scores, keep).sort(dim=-1).values


def ranked(scores: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` largest scores of each row, best first; ties go to the lower index.

    `scores` `[..., n]` is ranked in fp32; returns int64 `[..., keep]`. While exporting this is one ONNX TopK, which
    promises that order; torch's own promises none.
    """
    scores = scores.float()
    if torch.compiler.is_exporting():
        return torch.topk(scores, keep, dim=-1).indices
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :keep]


def ascending(indices: Tensor) -> Tensor:
    """`[..., k]` int64 in ascending order; one TopK of a constant k while exporting, where a sort would measure it."""
    return torch.topk(indices, indices.shape[-1], dim=-1, largest=False).values


def ranks(scores: Tensor) -> Tensor:
    """Place of each score in its row `[..., n]`, the largest first: int64 `[..., n]`; ties as in `ranked`."""
    order = ranked(scores, scores.shape[-1])
    return torch.zeros_like(order).scatter(-1, order, torch.arange(scores.shape[-1]).expand(order.shape))


def marked(indices: Tensor, length: int) -> Tensor:
    """1.0 at every index in `[..., k]`, which may repeat: fp32 `[..., length]`."""
    return torch.zeros(*indices.shape[:-1], length).scatter(-1, indices, 1.0)


def gather_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` `[..., k]` of `values` `[..., n, *tail]`, batched over the leading axes: `[..., k, *tail]`."""
    axis = indices.dim() - 1
    tail = values.shape[axis + 1 :]
    index = indices.reshape(*indices.shape, *(1 for _ in tail)).expand(*indices.shape, *tail)
    return torch.gather(values, axis, index)
