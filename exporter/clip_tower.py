"""CLIP's vision tower as Hugging Face writes it: its blocks, what comes before them, what no checkpoint holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exporter.attention import Tape, listening
from exporter.reducer import Grid
from exporter.stack import Block, Rope, Stack


def patch_grid(vision: Any) -> Grid:
    """Patches of one view."""
    side = vision.image_size // vision.patch_size
    return Grid(side, side)


def embedded(tower: Any, pixel_values: Tensor) -> Tensor:
    """`[B,3,H,W]` as patches behind [CLS], with positions, behind CLIP's first norm: `[B,1+N,C]`."""
    out: Tensor = tower.pre_layrnorm(tower.embeddings(pixel_values))
    return out


def layers(tower: Any) -> Stack:
    """Its encoder layers."""
    return Stack("tower", tuple(_block(layer) for layer in tower.encoder.layers))


def restore_positions(tower: Any) -> None:
    """Give the tower its position ids."""
    embeddings = tower.embeddings
    embeddings.position_ids = torch.arange(embeddings.position_embedding.num_embeddings).expand(1, -1)


def _block(layer: Any) -> Block:
    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:  # noqa: ARG001
        with listening(tape):
            out: Tensor = layer.self_attn(x, attention_mask=mask)[0]
        return out

    return Block(layer.layer_norm1, attention, layer.layer_norm2, layer.mlp)
