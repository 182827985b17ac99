"""The two forms of pruning in PyTorch: as the papers' code does it, and as little as it takes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn


def first_k(scores: Tensor, keep: int) -> Tensor:
    """Places of the largest scores `[B,N]`, ascending."""
    return scores.topk(keep, dim=1).indices.sort(dim=1).values


def rows_of(x: Tensor, kept: Tensor) -> Tensor:
    """`[B,N,C]` to the kept rows `[B,K,C]`."""
    return x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))


class PaperVision(nn.Module):
    """The papers' way: every layer runs, every attention map is kept, every row is projected; then rows are picked."""

    def __init__(self, model: Any, keep: int | None) -> None:
        super().__init__()
        self.tower, self.projector, self.keep = model.model.vision_tower, model.model.multi_modal_projector, keep
        self.layer = model.config.vision_feature_layer

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """`[B,3,H,W]` to the rows and their places."""
        seen = self.tower(pixels, output_hidden_states=True, output_attentions=self.keep is not None)
        rows = self.projector(seen.hidden_states[self.layer][:, 1:])
        if self.keep is None:
            return rows, None
        kept = first_k(seen.attentions[self.layer][:, :, 0, 1:].mean(dim=1), self.keep)
        return rows_of(rows, kept), kept


class LeanVision(nn.Module):
    """Fused attention, only the layers that are used, one row of scores beside it, rows picked before the projector."""

    def __init__(self, model: Any, keep: int | None) -> None:
        super().__init__()
        self.tower, self.projector, self.keep = model.model.vision_tower, model.model.multi_modal_projector, keep
        depth = model.config.vision_config.num_hidden_layers + model.config.vision_feature_layer + 1
        self.layers = self.tower.encoder.layers[:depth]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """`[B,3,H,W]` to the rows and their places."""
        x = self.tower.pre_layrnorm(self.tower.embeddings(pixels))
        for layer in self.layers:
            x, row = self._layer(layer, x)
        if self.keep is None:
            return self.projector(x[:, 1:]), None
        kept = first_k(row[:, 1:], self.keep)
        return self.projector(rows_of(x[:, 1:], kept)), kept

    def _layer(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """A CLIP layer; the scores `[B,N]` of its [CLS] are recomputed from q and k where they are wanted."""
        at, y = layer.self_attn, layer.layer_norm1(x)
        q, k, v = (p(y).unflatten(-1, (-1, at.head_dim)).transpose(1, 2) for p in (at.q_proj, at.k_proj, at.v_proj))
        x = x + at.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.layer_norm2(x))
        if layer is not self.layers[-1] or self.keep is None:
            return x, x[:, :, 0]
        scores = (q[:, :, :1] @ k.transpose(-1, -2) * at.scale).softmax(-1, dtype=torch.float32)
        return x, scores.mean(dim=1)[:, 0]


class Prefill(nn.Module):
    """Words around a picture's rows, through the stock decoder with its cache, to the last row's logits `[B,V]`."""

    def __init__(self, model: Any, before: int) -> None:
        super().__init__()
        self.language, self.head, self.before = model.model.language_model, model.lm_head, before

    def forward(self, words: Tensor, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[B,T]` and `[B,K,D]` to logits, and the keys and values that decoding goes on with."""
        text = self.language.embed_tokens(words)
        embeds = torch.cat((text[:, : self.before], rows, text[:, self.before :]), dim=1)
        read = self.language(inputs_embeds=embeds, use_cache=True)
        cached = [each for layer in read.past_key_values.layers for each in (layer.keys, layer.values)]
        return self.head(read.last_hidden_state[:, -1]), cached
