"""LLaVA-1.5: CLIP tower with [CLS], MLP projector, LLaMA decoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from engines.errors import UserError
from engines.flops import Geometry
from engines.json_file import read_object
from exporter.attention import Tape
from exporter.clip_processor import clip_processor
from exporter.config import check_clip, check_llama, check_projector, refusals_in_words, stop_tokens
from exporter.family import Facts, Family, Widths
from exporter.form import Asked, Form
from exporter.reducer import QKV, Grid, Shape
from exporter.section import Section
from exporter.stack import Block, Rope, Stack

# Stored names differ by who saved the file: the hub's, and transformers 5's with and without its `model.` prefix.
RENAMES = (
    (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "model.vision_tower."),
    (re.compile(r"^(model\.)?multi_modal_projector\."), "model.multi_modal_projector."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^(language_model\.model\.|model\.language_model\.(?!lm_head))"), "model.language_model."),
)


class Llava(Family):
    """Where the tensors of `LlavaForConditionalGeneration` live."""

    architectures = ("LlavaForConditionalGeneration",)
    title = "LLaVA-1.5"
    offers = frozenset({"cls", "clip", "text"})

    @classmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """One: a square picture."""
        asked.refuse(cls.title, "--grid", "--image-size", "--frames")
        if asked.input == "video":
            raise UserError(f"--input video: {cls.title} takes pictures only")
        return (Form(size=(config.vision_config.image_size,) * 2),)

    @classmethod
    def load_config(cls, directory: Path) -> Any:
        """The checkpoint's `LlavaConfig`, checked for what this family can export."""
        from transformers import LlavaConfig

        path = directory / "config.json"
        _check_kind(Section(path, "", read_object(path)))
        with refusals_in_words(path):
            config = LlavaConfig.from_pretrained(str(directory), local_files_only=True)
        _check_values(path, config)
        return config

    @classmethod
    def empty(cls, config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
        """`LlavaForConditionalGeneration` without weights."""
        from transformers import LlavaForConditionalGeneration

        made = LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attention)  # noqa: SLF001
        assert isinstance(made, nn.Module)
        return made.eval()

    @classmethod
    def reference(cls, directory: Path) -> nn.Module:
        """The stock model, eager, fp32."""
        from transformers import LlavaForConditionalGeneration
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        made = LlavaForConditionalGeneration.from_pretrained(
            str(directory),
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
        )
        assert isinstance(made, nn.Module)
        return made.eval()

    def restore_buffers(self) -> None:
        """Position ids of the tower, rotary frequencies of the decoder."""
        embeddings, language = self._tower.embeddings, self._language
        embeddings.position_ids = torch.arange(embeddings.position_embedding.num_embeddings).expand(1, -1)
        language.rotary_emb = type(language.rotary_emb)(self.config.text_config)

    @staticmethod
    def module_key(stored: str) -> str:
        """`vision_tower.vision_model.encoder…`, `language_model.model.layers…` and their later spellings."""
        for pattern, replacement in RENAMES:
            renamed, hits = pattern.subn(replacement, stored)
            if hits:
                return renamed
        return stored

    def facts(self, directory: Path) -> Facts:
        """Ids from the config and the generation config."""
        text = self.config.text_config
        return Facts(
            family="llava",
            image_token_id=self.config.image_token_id,
            eos_token_ids=stop_tokens(directory, text),
            pad_token_id=text.pad_token_id or 0,
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            layers=text.num_hidden_layers,
            kv_heads=text.num_key_value_heads,
            head_dim=self.widths.head_dim,
            max_positions=text.max_position_embeddings,
        )

    def shape(self, images: int) -> Shape:
        """CLIP's grid, [CLS] in front, the selected hidden state as last layer."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        layers = vision.num_hidden_layers
        return Shape(
            patches=side * side,
            grid=Grid(side, side),
            tower_layers=layers,
            tower_last=layers + self.config.vision_feature_layer,
            decoder_layers=self.config.text_config.num_hidden_layers,
            has_cls=True,
            images=images,
        )

    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """CLIP's image processor: resize, optional centre crop, rescale, normalise."""
        return clip_processor(directory)

    def geometry(self, tokens: int) -> Geometry:
        """Widths and depths for FLOP counts, `tokens` rows through the projector."""
        text, vision = self.config.text_config, self.config.vision_config
        shape = self.shape(1)
        return Geometry(
            layers=text.num_hidden_layers,
            d=text.hidden_size,
            d_kv=self.widths.kv_heads * self.widths.head_dim,
            f=text.intermediate_size,
            vocab=text.vocab_size,
            tower_layers=shape.tower_last + 1,
            tower_d=vision.hidden_size,
            tower_f=vision.intermediate_size,
            tower_tokens=shape.patches + 1,
            projector_flops=2.0 * tokens * (vision.hidden_size * text.hidden_size + text.hidden_size**2),
        )

    @property
    def pixels(self) -> tuple[int, ...]:
        """CLIP's square picture."""
        return self.config.vision_config.num_channels, *self.form.size

    @property
    def widths(self) -> Widths:
        """LLaMA's."""
        text = self.config.text_config
        head = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
        placeholders = (self.config.image_token_id,)
        return Widths(text.hidden_size, text.num_key_value_heads, head, text.vocab_size, placeholders)

    @property
    def prefix(self) -> int:
        """[CLS]."""
        return 1

    def patch_embeddings(self, pixel_values: Tensor) -> Tensor:
        """Patches, [CLS], positions, and CLIP's first norm."""
        out: Tensor = self._tower.pre_layrnorm(self._tower.embeddings(pixel_values))
        return out

    @property
    def tower(self) -> Stack:
        """CLIP's encoder layers."""
        return Stack("tower", tuple(_clip_block(layer) for layer in self._tower.encoder.layers))

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
        blocks = tuple(_llama_block(layer) for layer in self._language.layers)
        return Stack("decoder", blocks, rotary=self._language.rotary_emb)

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Final RMSNorm and vocabulary projection."""
        return lambda x: self.model.lm_head(self._language.norm(x))  # type: ignore[operator]

    def layers(self, stack: str) -> nn.ModuleList:
        """The stock layer modules, for hooks."""
        layers = self._tower.encoder.layers if stack == "tower" else self._language.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """CLIP's image processor, on Pillow: the one that checkpoints were trained and evaluated with."""
        from transformers import CLIPImageProcessorPil

        processor = CLIPImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
        with Image.open(picture) as image:
            out: Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        return out

    def stock_tower(self, pixel_values: Tensor) -> None:
        """CLIP's own forward."""
        self._tower(pixel_values)

    def stock_logits(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """LLaMA's own forward and head."""
        read = self._language(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False)
        out: Tensor = self.model.lm_head(read.last_hidden_state)  # type: ignore[operator]
        return out

    def eager_qkv(
        self, attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[dict[bool, QKV], float]:
        """CLIP's and LLaMA's projections have the same names."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        module: Any = attention
        projections = (module.q_proj(x), module.k_proj(x), module.v_proj(x))
        q, k, v = (p.unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for p in projections)
        turned_q, turned_k = (q, k) if rope is None else apply_rotary_pos_emb(q, k, *rope)
        return {False: QKV(q, k, v), True: QKV(turned_q, turned_k, v)}, float(module.head_dim) ** -0.5

    @property
    def _inner(self) -> Any:
        return self.model.model

    @property
    def _tower(self) -> Any:
        return self._inner.vision_tower

    @property
    def _language(self) -> Any:
        return self._inner.language_model


def _clip_block(layer: Any) -> Block:
    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:  # noqa: ARG001
        out: Tensor = layer.self_attn(x, attention_mask=mask, tape=tape)[0]
        return out

    return Block(layer.layer_norm1, attention, layer.layer_norm2, layer.mlp)


def _llama_block(layer: Any) -> Block:
    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:
        out: Tensor = layer.self_attn(x, position_embeddings=rope, attention_mask=mask, tape=tape)[0]
        return out

    return Block(layer.input_layernorm, attention, layer.post_attention_layernorm, layer.mlp)


def _check_kind(stored: Section) -> None:
    """The kinds of model that a config.json names, before transformers looks for others in it."""
    stored.one_of("model_type", ("llava",), default="llava")
    if stored.get("quantization_config", None):
        raise stored.wrong("quantization_config", "is set: quantized weights are not supported")
    for name, want in (("vision_config", "clip_vision_model"), ("text_config", "llama")):
        part = Section(stored.path, name, stored.get(name, {}))
        if isinstance(part.values, dict):  # transformers says what it makes of anything else
            part.one_of("model_type", (want,), default=want)


def _check_values(path: Path, config: Any) -> None:
    """The numbers and names of a loaded config."""
    whole = Section(path, "", config)
    check_clip(Section(path, "vision_config", config.vision_config))
    check_llama(Section(path, "text_config", config.text_config))
    check_projector(whole)
    whole.whole("image_token_id", least=0, most=config.text_config.vocab_size - 1)
    whole.one_of("vision_feature_select_strategy", ("default",))
    whole.whole("vision_feature_layer", least=-config.vision_config.num_hidden_layers, most=-1)


FAMILY = Llava
