"""Qwen2.5-VL: tower with windows and 2x2 merging, positions of three axes, Qwen2 decoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import UserError
from engines.flops import Geometry
from exporter import qwen_stock as stock
from exporter.attention import Tape
from exporter.config import refusals_in_words, stop_tokens
from exporter.family import Facts, Family, Widths
from exporter.form import Asked, Form
from exporter.packed import Packed
from exporter.qwen_config import check_kind, check_values
from exporter.qwen_processor import BOUNDS, picture_size, pixel_bounds, qwen_processor
from exporter.qwen_tower import MERGE, UNIT, QwenTower
from exporter.reducer import QKV, Grid, Shape
from exporter.stack import Block, Rope, Stack

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
        """The checkpoint's processor, on Pillow, on a picture of the one size."""
        return stock.stock_pixels(directory, picture, self.form.size, self.config.vision_config)

    def stock_tower(self, pixel_values: Tensor) -> None:
        """The stock tower's own forward."""
        stock.run_tower(self._tower, pixel_values)

    @property
    def packed(self) -> Packed:
        """The stock tower has no batch axis and walks window after window."""
        return stock.packed(self.config.vision_config, self.shape(1).grid)

    def stock_logits(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Qwen2's own forward and head."""
        read = self._language(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False)
        out: Tensor = self.model.lm_head(read.last_hidden_state)  # type: ignore[operator]
        return out

    def eager_qkv(
        self, attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[dict[bool, QKV], float]:
        """Of either stack's attention."""
        assert rope is not None
        return stock.eager_qkv(attention, x, rope)

    @property
    def _vision(self) -> QwenTower:
        return QwenTower(self._tower, self.shape(1).grid)

    @property
    def _tower(self) -> Any:
        return self.model.model.visual  # type: ignore[union-attr]

    @property
    def _language(self) -> Any:
        return self.model.model.language_model  # type: ignore[union-attr]


def _decoder_block(layer: Any) -> Block:
    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:
        out: Tensor = layer.self_attn(x, position_embeddings=rope, attention_mask=mask, tape=tape)[0]
        return out

    return Block(layer.input_layernorm, attention, layer.post_attention_layernorm, layer.mlp)


FAMILY = Qwen25VL
