"""Attention received in the vision tower: by [CLS] where there is one, by everybody where there is none."""

from __future__ import annotations

from torch import Tensor

from exporter.reducer import Shape, Taps

WITHOUT_CLS = "towers without [CLS] (ours): the attention that a patch receives from all patches, last global layer"


def scored_layer(shape: Shape, layer: int) -> int:
    """`layer` if it attends to the whole view, else the last one before it that does."""
    seeing = [number for number in shape.global_layers if number <= layer]
    return seeing[-1] if seeing else layer


def attended(taps: Taps, layer: int) -> Tensor:
    """`[B,I,N]` fp32: head mean of the [CLS] row of `layer` over the span, the softmax over all keys.

    Without [CLS] the column mean over all queries instead, which is a port of ours.
    """
    if taps.shape.has_cls:
        return taps.span_of(taps.rows(layer, "cls"))[:, :, :, 0].mean(2)
    return received(taps, layer)


def received(taps: Taps, layer: int) -> Tensor:
    """`[B,I,N]` fp32: attention that each token of the span receives, mean over heads and all queries."""
    return taps.span_of(taps.column_sum(layer)).mean(2) / taps.valid.sum(1)[:, None, None]


def same_depth(layer: int, of: int, shape: Shape) -> int:
    """Where `layer` of the authors' tower with `of` layers lies in this tower: the same share of its depth."""
    return min(round(layer * shape.tower_layers / of), shape.tower_last)
