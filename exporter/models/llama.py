"""Language models without pictures, of LLaMA's make: LLaMA, Mistral, Qwen2."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from engines.errors import UserError
from engines.flops import Geometry
from engines.json_file import read_object
from exporter import llama, stock
from exporter.config import check_llama, refusals_in_words
from exporter.family import Facts, Family, Widths
from exporter.form import Asked, Form
from exporter.reducer import QKV, Grid, Shape
from exporter.section import Section
from exporter.stack import Stack

RENAMES = ((re.compile(r"^(?!model\.|lm_head\.)"), "model."),)  # a bare backbone's names


class Llama(Family):
    """Where the tensors of `LlamaForCausalLM` and its kin live; there is no tower, and nothing to project."""

    architectures = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
    title = "LLaMA (text)"
    kinds = ("llama", "mistral", "qwen2")
    offers = frozenset()
    sees = False

    @classmethod
    def load_config(cls, directory: Path) -> Any:
        """The checkpoint's config, checked for what this family can export."""
        import transformers

        path = directory / "config.json"
        stored = Section(path, "", read_object(path))
        stored.one_of("model_type", cls.kinds)
        if stored.get("quantization_config", None):
            raise stored.wrong("quantization_config", "is set: quantized weights are not supported")
        with refusals_in_words(path):
            config = transformers.AutoConfig.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=False
            )
        whole = Section(path, "", config)
        check_llama(whole)
        whole.one_of("use_sliding_window", (False,), default=False)
        if (config.model_type == "mistral") and config.sliding_window is not None:
            raise whole.wrong("sliding_window", f"is {config.sliding_window}: windows are not supported")
        config.text_config = config
        return config

    @classmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """Text alone."""
        del config
        asked.refuse(cls.title, "--grid", "--image-size", "--frames")
        if asked.input is not None:
            raise UserError(f"--input {asked.input}: {cls.title} reads text only; leave it out")
        return (Form(part="", kind="text"),)

    @classmethod
    def empty(cls, config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
        """The stock model without weights."""
        return stock.empty(config.architectures[0], config, dtype, attention)

    @classmethod
    def reference(cls, directory: Path) -> nn.Module:
        """The stock model, eager, fp32."""
        return stock.loaded(read_object(directory / "config.json")["architectures"][0], directory)

    def restore_buffers(self) -> None:
        """Rotary frequencies."""
        llama.restore_rotation(self._language, self.config)

    @staticmethod
    def module_key(stored: str) -> str:
        """`model.layers…` and `lm_head`, or a backbone's own names."""
        return stock.renamed(stored, RENAMES)

    def facts(self, directory: Path) -> Facts:
        """Ids from the config and the generation config."""
        return llama.facts("llama", self.config, self.widths, directory)

    def shape(self, images: int) -> Shape:
        """No tokens of a picture."""
        return Shape(
            patches=0,
            grid=Grid(0, 0),
            decoder_layers=self.config.num_hidden_layers,
            has_cls=False,
            images=images,
            heads=self.config.num_attention_heads,
            kv_heads=self.widths.kv_heads,
        )

    def geometry(self, tokens: int) -> Geometry:
        """Widths and depths for FLOP counts."""
        del tokens
        text, widths = self.config, self.widths
        kv = widths.kv_heads * widths.head_dim
        return Geometry(text.num_hidden_layers, text.hidden_size, kv, text.intermediate_size, text.vocab_size)

    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """Nothing."""
        del directory
        return {}

    @property
    def pixels(self) -> tuple[int, ...]:
        """None."""
        return ()

    @property
    def widths(self) -> Widths:
        """LLaMA's."""
        return llama.widths(self.config)

    @property
    def prefix(self) -> int:
        """No tower."""
        return 0

    def patch_embeddings(self, pixel_values: Tensor) -> Tensor:
        """No tower."""
        _no_pictures(pixel_values)

    @property
    def tower(self) -> Stack:
        """No tower."""
        _no_pictures()

    @property
    def projector(self) -> Callable[[Tensor], Tensor]:
        """No projector."""
        _no_pictures()

    @property
    def token_embeddings(self) -> Callable[[Tensor], Tensor]:
        """The embedding table."""
        return self._language.embed_tokens  # type: ignore[no-any-return]

    @property
    def decoder(self) -> Stack:
        """All layers."""
        return llama.layers(self._language)

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Final RMSNorm and vocabulary projection."""
        return lambda x: self.model.lm_head(self._language.norm(x))  # type: ignore[operator]

    def layers(self, stack: str) -> nn.ModuleList:
        """The stock layer modules, for hooks."""
        assert stack == "decoder"
        layers = self._language.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def stock_tower(self, pixel_values: Tensor) -> None:
        """No tower."""
        _no_pictures(pixel_values)

    def stock_logits(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """The stock forward and head."""
        return llama.logits(self._language, self.model.lm_head, inputs_embeds, position_ids)

    def eager_qkv(
        self, attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[dict[bool, QKV], float]:
        """LLaMA's projections."""
        return llama.projected(attention, x, rope)

    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """No pictures."""
        _no_pictures(directory, picture)

    @property
    def _language(self) -> Any:
        return self.model.model


def _no_pictures(*about: object) -> NoReturn:
    raise AssertionError(f"a text model is never asked about pictures: {about}")


FAMILY = Llama
