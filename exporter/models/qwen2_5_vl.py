"""Qwen2.5-VL: tower with windows and 2x2 merging, positions of three axes, Qwen2 decoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import UserError
from engines.flops import Geometry
from exporter import llama, qwen_stock, stock
from exporter.config import refusals_in_words
from exporter.family import Facts, Family, Widths
from exporter.form import Asked, Form
from exporter.packed import Packed
from exporter.qwen_config import check_kind, check_values
from exporter.qwen_processor import BOUNDS, picture_size, pixel_bounds, qwen_processor
from exporter.qwen_tower import MERGE, UNIT, QwenTower
from exporter.reducer import QKV, Grid, Shape
from exporter.stack import Rope, Stack

# The hub's names; transformers 5 saves its own.
RENAMES = (
    (re.compile(r"^(model\.)?visual\."), "model.visual."),
    (re.compile(r"^model\.(?=(embed_tokens|layers|norm)\.)"), "model.language_model."),
)


class Qwen25VL(Family):
    """Where the tensors of `Qwen2_5_VLForConditionalGeneration` live."""

    architectures = ("Qwen2_5_VLForConditionalGeneration",)
    title = "Qwen2.5-VL"
    unit = UNIT
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
        return stock.empty(cls.architectures[0], config, dtype, attention)

    @classmethod
    def reference(cls, directory: Path) -> nn.Module:
        """The stock model, eager, fp32."""
        return stock.loaded(cls.architectures[0], directory)

    def restore_buffers(self) -> None:
        """Rotary frequencies of both stacks."""
        llama.restore_rotation(self._language, self.config.text_config)
        tower = self._tower
        tower.rotary_pos_emb = type(tower.rotary_pos_emb)(self.config.vision_config)

    @staticmethod
    def module_key(stored: str) -> str:
        """`visual.blocks…`, `model.layers…`, and transformers' own names."""
        return stock.renamed(stored, RENAMES)

    def facts(self, directory: Path) -> Facts:
        """Ids from the config and the generation config."""
        return llama.facts("qwen2.5-vl", self.config.text_config, self.widths, directory)

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
            heads=self.config.text_config.num_attention_heads,
            kv_heads=self.widths.kv_heads,
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
        """`[B,3,H,W]` to `[B,S,C]`, the patches of a token one behind the other."""
        return self._vision.patch_embeddings(pixel_values)

    @property
    def tower(self) -> Stack:
        """The blocks, most of which see windows."""
        return self._vision.stack

    @property
    def projector(self) -> Callable[[Tensor], Tensor]:
        """Norm, and two linear layers over the patches of a token."""
        return self._vision.merged

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

        return replace(llama.layers(self._language), rotary=rotary)

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
        """The checkpoint's processor, on Pillow, on a picture of the one size."""
        return qwen_stock.stock_pixels(directory, picture, self.form.size, self.config.vision_config)

    def stock_tower(self, pixel_values: Tensor) -> None:
        """The stock tower's own forward."""
        qwen_stock.run_tower(self._tower, pixel_values)

    @property
    def packed(self) -> Packed:
        """The stock tower has no batch axis and walks window after window."""
        return qwen_stock.packed(self.config.vision_config, self.shape(1).grid)

    def stock_logits(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Qwen2's own forward and head."""
        return llama.logits(self._language, self.model.lm_head, inputs_embeds, position_ids)

    def eager_qkv(
        self, attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[dict[bool, QKV], float]:
        """Of either stack's attention."""
        assert rope is not None
        return qwen_stock.eager_qkv(attention, x, rope)

    @property
    def _vision(self) -> QwenTower:
        return QwenTower(self._tower, self.shape(1).grid)

    @property
    def _tower(self) -> Any:
        return self.model.model.visual  # type: ignore[union-attr]

    @property
    def _language(self) -> Any:
        return self.model.model.language_model  # type: ignore[union-attr]


FAMILY = Qwen25VL
