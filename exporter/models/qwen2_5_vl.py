"""Qwen2.5-VL: tower with windows and 2x2 merging, positions of three axes, Qwen2 decoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from engines.errors import UserError
from engines.flops import Geometry
from exporter.attention import Tape, fused
from exporter.config import refusals_in_words, stop_tokens
from exporter.family import Facts, Family, Widths
from exporter.form import Asked, Form
from exporter.packed import Packed
from exporter.qwen_config import check_kind, check_values
from exporter.qwen_processor import BOUNDS, picture_size, pixel_bounds, qwen_processor, stock_processor
from exporter.reducer import QKV, Grid, Shape
from exporter.sequence import Sequence
from exporter.stack import Block, Rope, Stack
from exporter.tower_windows import TowerWindows

MERGE = 2  # patches a side of one token
# The hub's names; transformers 5 saves its own.
RENAMES = (
    (re.compile(r"^(model\.)?visual\."), "model.visual."),
    (re.compile(r"^model\.(?=(embed_tokens|layers|norm)\.)"), "model.language_model."),
)


class Qwen25VL(Family):
    """Where the tensors of `Qwen2_5_VLForConditionalGeneration` live."""

    architectures = ("Qwen2_5_VLForConditionalGeneration",)
    title = "Qwen2.5-VL"
    unit = MERGE**2
    axes = 3
    positions = "mrope"

    @classmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """One: a picture of the size asked for, as near as the processor makes it."""
        asked.refuse(cls.title, "--grid", "--frames")
        if asked.input == "video":
            raise UserError(f"--input video: {cls.title} takes pictures only here")
        bounds = getattr(config, "pixel_bounds", BOUNDS)
        return (Form(size=picture_size(asked.size, MERGE * config.vision_config.patch_size, bounds)),)

    @classmethod
    def load_config(cls, directory: Path) -> Any:
        """The checkpoint's `Qwen2_5_VLConfig`, checked for what this family can export."""
        from transformers import Qwen2_5_VLConfig

        path = directory / "config.json"
        check_kind(path)
        with refusals_in_words(path):
            config = Qwen2_5_VLConfig.from_pretrained(str(directory), local_files_only=True)
        check_values(path, config)
        config.pixel_bounds = pixel_bounds(directory)
        return config

    @classmethod
    def empty(cls, config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
        """`Qwen2_5_VLForConditionalGeneration` without weights."""
        from transformers import Qwen2_5_VLForConditionalGeneration as Model

        made = Model._from_config(config, dtype=dtype, attn_implementation=attention)  # noqa: SLF001
        assert isinstance(made, nn.Module)
        return made.eval()

    @classmethod
    def reference(cls, directory: Path) -> nn.Module:
        """The stock model, eager, fp32."""
        from transformers import Qwen2_5_VLForConditionalGeneration
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        made = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            str(directory),
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
        )
        assert isinstance(made, nn.Module)
        return made.eval()

    def restore_buffers(self) -> None:
        """Rotary frequencies of both stacks."""
        language, tower = self._language, self._tower
        language.rotary_emb = type(language.rotary_emb)(self.config.text_config)
        tower.rotary_pos_emb = type(tower.rotary_pos_emb)(self.config.vision_config)

    @staticmethod
    def module_key(stored: str) -> str:
        """`visual.blocks…`, `model.layers…`, and transformers' own names."""
        for pattern, replacement in RENAMES:
            renamed, hits = pattern.subn(replacement, stored)
            if hits:
                return renamed
        return stored

    def facts(self, directory: Path) -> Facts:
        """Ids from the config and the generation config."""
        text, widths = self.config.text_config, self.widths
        return Facts(
            family="qwen2.5-vl",
            image_token_id=self.config.image_token_id,
            eos_token_ids=stop_tokens(directory, text),
            pad_token_id=text.pad_token_id or 0,
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            layers=text.num_hidden_layers,
            kv_heads=text.num_key_value_heads,
            head_dim=widths.head_dim,
            max_positions=text.max_position_embeddings,
        )

    def shape(self, images: int) -> Shape:
        """The grid of merged patches, no [CLS]; most layers see windows only."""
        vision = self.config.vision_config
        grid = Grid(*(side // (MERGE * vision.patch_size) for side in self.form.size))
        return Shape(
            patches=grid.rows * grid.cols,
            grid=grid,
            tower_layers=vision.depth,
            tower_last=vision.depth - 1,
            decoder_layers=self.config.text_config.num_hidden_layers,
            has_cls=False,
            images=images,
            global_layers=tuple(sorted(vision.fullatt_block_indexes)),
        )

    def geometry(self, tokens: int) -> Geometry:
        """Widths and depths for FLOP counts, `tokens` merged rows; attention as if all layers saw everything."""
        text, vision = self.config.text_config, self.config.vision_config
        merged = vision.hidden_size * self.unit
        return Geometry(
            layers=text.num_hidden_layers,
            d=text.hidden_size,
            d_kv=self.widths.kv_heads * self.widths.head_dim,
            f=text.intermediate_size,
            vocab=text.vocab_size,
            tower_layers=vision.depth,
            tower_d=vision.hidden_size,
            tower_f=vision.intermediate_size,
            tower_tokens=self.shape(1).patches * self.unit,
            tower_gated=True,
            projector_flops=2.0 * tokens * (merged**2 + merged * text.hidden_size),
        )

    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """Resize to the one size, rescale, normalise."""
        return qwen_processor(directory, self.config.vision_config, self.form.size)

    @property
    def pixels(self) -> tuple[int, ...]:
        """The picture itself: its patches are cut in the graph."""
        return 3, *self.form.size

    @property
    def widths(self) -> Widths:
        """Qwen2's."""
        text = self.config.text_config
        head = text.hidden_size // text.num_attention_heads
        return Widths(text.hidden_size, text.num_key_value_heads, head, text.vocab_size, (self.config.image_token_id,))

    @property
    def prefix(self) -> int:
        """Nothing in front of the patches."""
        return 0

    def patch_embeddings(self, pixel_values: Tensor) -> Tensor:
        """`[B,3,H,W]` to `[B,S,C]`, the patches of a token one behind the other; both frames are the one picture."""
        weight = self._tower.patch_embed.proj.weight  # [C,3,frames,p,p]
        grid, side, frames = self.shape(1).grid, weight.shape[-1], weight.shape[2]
        cells = pixel_values.reshape(-1, 3, grid.rows, MERGE, side, grid.cols, MERGE, side)
        patches = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, grid.rows * grid.cols * self.unit, 3, 1, side**2)
        return linear(torch.cat([patches] * frames, 3).flatten(2), weight.flatten(1))

    @property
    def tower(self) -> Stack:
        """The blocks; those that see windows run window by window until the first cut."""
        seeing = self.shape(1).global_layers
        blocks = (_tower_block(b, None if n in seeing else self._windows) for n, b in enumerate(self._tower.blocks))
        return Stack("tower", tuple(blocks), rotary=self._tower_rotary, window=self._window)

    @property
    def projector(self) -> Callable[[Tensor], Tensor]:
        """Norm, and two linear layers over the rows of a token."""

        def merge(rows: Tensor) -> Tensor:
            merger = self._tower.merger
            out: Tensor = merger.mlp(merger.ln_q(rows).unflatten(1, (-1, self.unit)).flatten(2))
            return out

        return merge

    @property
    def mrope(self) -> Mapping[str, Any]:
        """A picture is one frame."""
        return {"grid": [1, *self.shape(1).grid], "step": 1}

    def places(self, kept: Tensor, *, keep: bool) -> tuple[Tensor, int]:
        """Time, row and column of each kept token; the text goes on as if all had been kept."""
        del keep
        rows, cols = self.shape(1).grid
        number = kept.clamp(min=0)
        return torch.stack([number * 0, number // cols, number % cols]), max(rows, cols)

    @property
    def token_embeddings(self) -> Callable[[Tensor], Tensor]:
        """Qwen2's embedding table."""
        return self._language.embed_tokens  # type: ignore[no-any-return]

    @property
    def decoder(self) -> Stack:
        """Qwen2's layers."""

        def rotary(hidden: Tensor, positions: Tensor) -> Rope:
            cos, sin = self._language.rotary_emb(hidden, positions.movedim(-1, 0))
            return cos, sin

        return Stack("decoder", tuple(_decoder_block(layer) for layer in self._language.layers), rotary=rotary)

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Final RMSNorm and vocabulary projection."""
        return lambda x: self.model.lm_head(self._language.norm(x))  # type: ignore[operator]

    def layers(self, stack: str) -> nn.ModuleList:
        """The stock layer modules, for hooks."""
        layers = self._tower.blocks if stack == "tower" else self._language.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """The stock processor on a picture that already has the one size: its patches put together again."""
        processor, (height, width) = stock_processor(directory), self.form.size
        with Image.open(picture) as image:
            resized = image.convert("RGB").resize((width, height), resample=processor.resample)
        flat: Tensor = processor(images=resized, do_resize=False, return_tensors="pt")["pixel_values"]
        side = self.config.vision_config.patch_size
        grid = self.shape(1).grid
        cells = flat.reshape(*grid, MERGE, MERGE, 3, -1, side, side)[:, :, :, :, :, 0]
        return cells.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, height, width)

    def stock_tower(self, pixel_values: Tensor) -> None:
        """The stock tower's own forward up to the merger, on patches as the stock processor cuts them."""
        from transformers import Qwen2VLImageProcessorPil

        vision = self.config.vision_config
        cut = Qwen2VLImageProcessorPil().patchify
        flat, _, _ = cut(pixel_values[0].numpy(), vision.patch_size, MERGE, vision.temporal_patch_size)
        stop = self._tower.merger.register_forward_pre_hook(_enough)
        with stop, suppress(_Enough):
            self._tower(torch.from_numpy(flat), grid_thw=self._stock_grid)

    @property
    def packed(self) -> Packed:
        """The stock tower walks window after window."""
        from transformers.vision_utils import get_vision_window_index

        vision = self.config.vision_config
        index, ends = get_vision_window_index(self._stock_grid, MERGE, vision.window_size, vision.patch_size)
        order = (index[:, None] * self.unit + torch.arange(self.unit)).flatten()
        windows = torch.empty_like(order)
        windows[order] = torch.bucketize(torch.arange(len(order)), ends[1:].long(), right=True)
        return Packed(windows, tuple(vision.fullatt_block_indexes))

    def stock_logits(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Qwen2's own forward and head."""
        read = self._language(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False)
        out: Tensor = self.model.lm_head(read.last_hidden_state)  # type: ignore[operator]
        return out

    def eager_qkv(
        self, attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[dict[bool, QKV], float]:
        """The tower has one projection for the three, the decoder three."""
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock

        module: Any = attention
        assert rope is not None
        if hasattr(module, "qkv"):
            q, k, v = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).unbind(2)
            turned_q, turned_k = stock.apply_rotary_pos_emb_vision(q, k, *rope)
            q, k, v, turned_q, turned_k = (each.transpose(1, 2) for each in (q, k, v, turned_q, turned_k))
        else:
            projections = (module.q_proj(x), module.k_proj(x), module.v_proj(x))
            q, k, v = (p.unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for p in projections)
            turned_q, turned_k = stock.apply_rotary_pos_emb(q, k, *rope)
        return {False: QKV(q, k, v), True: QKV(turned_q, turned_k, v)}, float(module.scaling)

    @cached_property
    def _windows(self) -> TowerWindows:
        vision = self.config.vision_config
        return TowerWindows(self.shape(1).grid, vision.window_size // MERGE // vision.patch_size, self.unit)

    def _window(self, layer: int, sequence: Sequence) -> Tensor | None:
        """Which rows share a window; an uncut sequence without bias needs no mask."""
        if layer in self.shape(1).global_layers or (sequence.whole and sequence.bias is None):
            return None
        assert sequence.positions is not None
        return self._windows.shared(sequence.positions)

    @cached_property
    def _angles(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """`[S,d/2]`: by how much each pair of a row's head is turned, for its row and column of the picture."""
        vision, (rows, cols) = self.config.vision_config, self.shape(1).grid
        width = vision.hidden_size // vision.num_heads // 2
        speed = vision.rope_parameters["rope_theta"] ** -(np.arange(0, width, 2) / width)
        token, patch = np.divmod(np.arange(rows * cols * self.unit), self.unit)
        row, col = token // cols * MERGE + patch // MERGE, token % cols * MERGE + patch % MERGE
        return np.concatenate([row[:, None] * speed, col[:, None] * speed], 1).astype(np.float32)

    def _tower_rotary(self, hidden: Tensor, positions: Tensor) -> Rope:
        """Tables `[B,S,d]` in fp32, as the stock tower turns in fp32."""
        del hidden
        angles = embedding(positions, torch.tensor(self._angles))
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    @property
    def _stock_grid(self) -> Tensor:
        return torch.tensor([[1, *(MERGE * side for side in self.shape(1).grid)]])

    @property
    def _tower(self) -> Any:
        return self.model.model.visual  # type: ignore[union-attr]

    @property
    def _language(self) -> Any:
        return self.model.model.language_model  # type: ignore[union-attr]


class _Enough(Exception):  # noqa: N818 - no error
    """All layers ran; what follows in the stock tower wants every row."""


def _enough(*_: Any) -> None:
    raise _Enough


def _tower_block(block: Any, windows: TowerWindows | None) -> Block:
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


def _decoder_block(layer: Any) -> Block:
    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:
        out: Tensor = layer.self_attn(x, position_embeddings=rope, attention_mask=mask, tape=tape)[0]
        return out

    return Block(layer.input_layernorm, attention, layer.post_attention_layernorm, layer.mlp)


FAMILY = Qwen25VL
