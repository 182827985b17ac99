"""Qwen2.5-VL's own code, as the reference runs it: processor, patches, the order of rows, projections."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from exporter.packed import Packed
from exporter.qwen_processor import stock_processor
from exporter.qwen_tower import MERGE, UNIT
from exporter.reducer import QKV, Grid


def stock_pixels(directory: Path, picture: Path, size: tuple[int, int], vision: Any) -> Tensor:
    """`[1,3,H,W]`: a picture that already has its `size`, through the stock processor, its patches put together."""
    processor, (height, width), side = stock_processor(directory), size, vision.patch_size
    with Image.open(picture) as image:
        resized = image.convert("RGB").resize((width, height), resample=processor.resample)
    flat: Tensor = processor(images=resized, do_resize=False, return_tensors="pt")["pixel_values"]
    cells = flat.reshape(height // side // MERGE, width // side // MERGE, MERGE, MERGE, 3, -1, side, side)
    return cells[:, :, :, :, :, 0].permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, height, width)


def run_tower(tower: Any, pixel_values: Tensor) -> None:
    """The stock forward of `[1,3,H,W]` up to the merger, which would want every row again."""
    from transformers import Qwen2VLImageProcessorPil

    side, frames = tower.config.patch_size, tower.config.temporal_patch_size
    flat, rows, cols = Qwen2VLImageProcessorPil().patchify(pixel_values[0].numpy(), side, MERGE, frames)
    with tower.merger.register_forward_pre_hook(_enough), suppress(_Enough):
        tower(torch.from_numpy(flat), grid_thw=torch.tensor([[1, rows, cols]]))


def packed(vision: Any, grid: Grid) -> Packed:
    """The stock tower walks window after window."""
    from transformers.vision_utils import get_vision_window_index

    whole = torch.tensor([[1, *(MERGE * side for side in grid)]])
    index, ends = get_vision_window_index(whole, MERGE, vision.window_size, vision.patch_size)
    order = (index[:, None] * UNIT + torch.arange(UNIT)).flatten()
    windows = torch.empty_like(order)
    windows[order] = torch.bucketize(torch.arange(len(order)), ends[1:].long(), right=True)
    return Packed(windows, tuple(vision.fullatt_block_indexes))


def eager_qkv(attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[dict[bool, QKV], float]:
    """q, k, v after and before rotation: the tower has one projection for the three, the decoder three."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock

    module: Any = attention
    if hasattr(module, "qkv"):
        q, k, v = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).unbind(2)
        turned_q, turned_k = stock.apply_rotary_pos_emb_vision(q, k, *rope)
        q, k, v, turned_q, turned_k = (each.transpose(1, 2) for each in (q, k, v, turned_q, turned_k))
    else:
        projections = (module.q_proj(x), module.k_proj(x), module.v_proj(x))
        q, k, v = (p.unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for p in projections)
        turned_q, turned_k = stock.apply_rotary_pos_emb(q, k, *rope)
    return {False: QKV(q, k, v), True: QKV(turned_q, turned_k, v)}, float(module.scaling)


class _Enough(Exception):  # noqa: N818 - no error
    """All layers ran."""


def _enough(*_: Any) -> None:
    raise _Enough
