"""Families of a CLIP tower, an MLP projector and a LLaMA decoder, whatever they make of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engines.flops import Geometry
from exporter import clip_tower, llama, llava_config, stock
from exporter.clip_processor import clip_processor
from exporter.family import Facts, Family, Widths
from exporter.reducer import QKV, Shape
from exporter.section import Section
from exporter.stack import Stack


class ClipLlama(Family):
    """What LLaVA and its kin share: module names, config keys, sizes.

    Attributes:
        kind: `model_type` of the config.
        config_class: transformers' class for it.
        towers: which vision towers there may be, likewise.
        strategies: whether a tower's first row is [CLS] ("default") or a patch ("full").
        texts: which decoders there may be, by their `model_type`; the first is what a config without one means.
        tokens: config keys of the placeholders, the picture's first.
        renames: from stored names to the model's.
    """

    kind: ClassVar[str]
    config_class: ClassVar[str]
    towers: ClassVar[tuple[str, ...]] = ("clip_vision_model",)
    strategies: ClassVar[tuple[str, ...]] = ("default",)
    texts: ClassVar[tuple[str, ...]] = ("llama",)
    tokens: ClassVar[tuple[str, ...]] = ("image_token_id",)
    renames: ClassVar[stock.Renames]
    offers = frozenset({"cls", "clip", "text", "pixels"})

    @classmethod
    def load_config(cls, directory: Path) -> Any:
        """The checkpoint's config, checked for what this family can export."""
        config = llava_config.load(directory, cls.kind, cls.config_class, cls.towers, cls.texts)
        llava_config.check(Section(directory / "config.json", "", config), cls.tokens, cls.strategies)
        return config

    @classmethod
    def empty(cls, config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
        """The stock model without weights."""
        return stock.empty(cls.architectures[0], config, dtype, attention)

    @classmethod
    def reference(cls, directory: Path) -> nn.Module:
        """The stock model, eager, fp32."""
        return stock.loaded(cls.architectures[0], directory)

    def restore_buffers(self) -> None:
        """Position ids of the tower, rotary frequencies of the decoder."""
        clip_tower.restore_positions(self._tower)
        llama.restore_rotation(self._language, self.config.text_config)

    @classmethod
    def module_key(cls, stored: str) -> str:
        """`vision_tower.vision_model.encoder…`, `language_model.model.layers…` and their later spellings."""
        return stock.renamed(stored, cls.renames)

    def facts(self, directory: Path) -> Facts:
        """Ids from the config and the generation config."""
        return llama.facts(self.kind.replace("_", "-"), self.config.text_config, self.widths, directory)

    def shape(self, images: int) -> Shape:
        """CLIP's grid, [CLS] in front, the selected hidden state as last layer."""
        grid, layers = clip_tower.patch_grid(self.config.vision_config), self.config.vision_config.num_hidden_layers
        return Shape(
            patches=grid.rows * grid.cols,
            grid=grid,
            tower_layers=layers,
            tower_last=layers + self.config.vision_feature_layer,
            decoder_layers=self.config.text_config.num_hidden_layers,
            heads=self.config.text_config.num_attention_heads,
            kv_heads=self.widths.kv_heads,
            has_cls=True,
            images=images,
            views=self.form.views,
            video=self.form.kind == "video",
        )

    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """CLIP's image processor: resize, optional centre crop, rescale, normalise."""
        return clip_processor(directory)

    def geometry(self, tokens: int) -> Geometry:
        """Widths and depths for FLOP counts, `tokens` rows through the projector."""
        text, vision, widths, shape = self.config.text_config, self.config.vision_config, self.widths, self.shape(1)
        return Geometry(
            layers=text.num_hidden_layers,
            d=text.hidden_size,
            d_kv=widths.kv_heads * widths.head_dim,
            f=text.intermediate_size,
            vocab=text.vocab_size,
            tower_layers=shape.tower_last + 1,
            tower_d=vision.hidden_size,
            tower_f=vision.intermediate_size,
            tower_tokens=self.prefix + self.seen,
            views=shape.views,
            projector_flops=2.0 * tokens * (vision.hidden_size * text.hidden_size + text.hidden_size**2),
        )

    @property
    def pixels(self) -> tuple[int, ...]:
        """CLIP's square picture, or several."""
        one = (self.config.vision_config.num_channels, *self.form.size)
        return one if self.form.views == 1 else (self.form.views, *one)

    @property
    def widths(self) -> Widths:
        """LLaMA's."""
        return llama.widths(self.config.text_config, *(getattr(self.config, token) for token in self.tokens))

    @property
    def prefix(self) -> int:
        """[CLS]."""
        return 1

    def patch_embeddings(self, pixel_values: Tensor) -> Tensor:
        """Patches, [CLS], positions, and CLIP's first norm."""
        return clip_tower.embedded(self._tower, pixel_values.flatten(0, -4))

    @property
    def tower(self) -> Stack:
        """CLIP's encoder layers."""
        return clip_tower.layers(self._tower)

    @property
    def projector(self) -> Callable[[Tensor], Tensor]:
        """Two linear layers."""
        return self._inner.multi_modal_projector  # type: ignore[no-any-return]

    @property
    def token_embeddings(self) -> Callable[[Tensor], Tensor]:
        """LLaMA's embedding table."""
        return self._language.embed_tokens  # type: ignore[no-any-return]

    @property
    def decoder(self) -> Stack:
        """LLaMA's layers."""
        return llama.layers(self._language)

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Final RMSNorm and vocabulary projection."""
        return lambda x: self.model.lm_head(self._language.norm(x))  # type: ignore[operator]

    def layers(self, stack: str) -> nn.ModuleList:
        """The stock layer modules, for hooks."""
        layers = self._tower.encoder.layers if stack == "tower" else self._language.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def stock_tower(self, pixel_values: Tensor) -> None:
        """CLIP's own forward."""
        self._tower(pixel_values)

    def stock_logits(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """LLaMA's own forward and head."""
        return llama.logits(self._language, self.model.lm_head, inputs_embeds, position_ids)

    def eager_qkv(
        self, attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[dict[bool, QKV], float]:
        """CLIP's and LLaMA's projections have the same names."""
        return llama.projected(attention, x, rope)

    @property
    def _inner(self) -> Any:
        return self.model.model

    @property
    def _tower(self) -> Any:
        return self._inner.vision_tower

    @property
    def _language(self) -> Any:
        return self._inner.language_model
