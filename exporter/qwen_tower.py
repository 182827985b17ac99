"""Qwen2.5-VL's vision tower for one size of picture, with a batch axis and in the picture's order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding, linear

from exporter.attention import Tape, fused
from exporter.reducer import Grid
from exporter.sequence import Sequence
from exporter.stack import Block, Rope, Stack
from exporter.tower_windows import TowerWindows

MERGE = 2  # patches a side of one token
UNIT = MERGE**2


@dataclass(frozen=True)
class QwenTower:
    """The stock module's weights over a `grid` of tokens; S = rows x columns x 4 patches, token by token."""

    stock: Any
    grid: Grid

    def patch_embeddings(self, pixel_values: Tensor) -> Tensor:
        """`[B,3,H,W]` to `[B,S,C]`; the frames that a patch has in the checkpoint are all the one picture."""
        weight = self.stock.patch_embed.proj.weight  # [C,3,frames,p,p]
        (rows, cols), frames, side = self.grid, weight.shape[2], weight.shape[3]
        cells = pixel_values.reshape(-1, 3, rows, MERGE, side, cols, MERGE, side).permute(0, 2, 5, 3, 6, 1, 4, 7)
        patches = cells.reshape(-1, rows * cols * UNIT, 3, 1, side * side)
        return linear(torch.cat([patches] * frames, 3).flatten(2), weight.flatten(1))

    @property
    def stack(self) -> Stack:
        """The blocks; until the first cut, those that see windows run window by window."""
        blocks = (_block(block, self._windows_of(layer)) for layer, block in enumerate(self.stock.blocks))
        return Stack("tower", tuple(blocks), rotary=self.rotary, window=self.window)

    def merged(self, rows: Tensor) -> Tensor:
        """`[B,k*4,C]` to `[B,k,D]`."""
        merger = self.stock.merger
        out: Tensor = merger.mlp(merger.ln_q(rows).unflatten(1, (-1, UNIT)).flatten(2))
        return out

    def rotary(self, hidden: Tensor, positions: Tensor) -> Rope:
        """Tables `[B,S,d]` in fp32, in which the stock tower turns too."""
        del hidden
        angles = embedding(positions, torch.tensor(self._angles))
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def window(self, layer: int, sequence: Sequence) -> Tensor | None:
        """Which rows share a window; blocks see to it themselves while nothing is cut and no key has a bias."""
        windows = self._windows_of(layer)
        if windows is None or (sequence.whole and sequence.bias is None):
            return None
        assert sequence.positions is not None
        return windows.shared(sequence.positions)

    def _windows_of(self, layer: int) -> TowerWindows | None:
        return None if layer in self.stock.config.fullatt_block_indexes else self._windows

    @cached_property
    def _windows(self) -> TowerWindows:
        config = self.stock.config
        return TowerWindows(self.grid, config.window_size // MERGE // config.patch_size, UNIT)

    @cached_property
    def _angles(self) -> NDArray[np.float32]:
        """`[S,d/2]`: how far each pair of a head is turned: half of them by the row of a patch, half by its column."""
        config, (rows, cols) = self.stock.config, self.grid
        half = config.hidden_size // config.num_heads // 2
        speed = config.rope_parameters["rope_theta"] ** -(np.arange(0, half, 2) / half)
        token, patch = np.divmod(np.arange(rows * cols * UNIT), UNIT)
        row, col = token // cols * MERGE + patch // MERGE, token % cols * MERGE + patch % MERGE
        return np.concatenate([row[:, None] * speed, col[:, None] * speed], 1).astype(np.float32)


def _block(block: Any, windows: TowerWindows | None) -> Block:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:
        own = block.attn
        assert rope is not None
        q, k, v = own.qkv(x).unflatten(-1, (3, own.num_heads, -1)).unbind(2)  # [B,S,H,d]
        q, k = apply_rotary_pos_emb_vision(q, k, *rope)
        queries, keys, values = (each.transpose(1, 2) for each in (q, k, v))
        if windows is None or mask is not None:
            out = fused(own, queries, keys, values, mask, own.scaling, tape)[0]
        else:
            tape.q, tape.k, tape.v, tape.scale = queries, keys, values, own.scaling
            out = windows.attend(q, k, v, own.scaling)
        done: Tensor = own.proj(out.flatten(2))
        return done

    return Block(block.norm1, attention, block.norm2, block.mlp)
