"""What a model family says about itself: where its stacks, projector, embeddings and prompt places are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engines.flops import Geometry
from exporter.reducer import QKV, Shape
from exporter.stack import Stack


@dataclass(frozen=True)
class Facts:
    """Numbers and ids that the runtime needs; they go into the bundle as they are."""

    family: str
    image_token_id: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    vocab_size: int
    hidden_size: int
    patches: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    layers: int
    kv_heads: int
    head_dim: int
    max_positions: int


@dataclass(frozen=True)
class Widths:
    """The decoder's sizes that ports are made of, and the token that stands for a picture."""

    hidden: int
    kv_heads: int
    head_dim: int
    vocab: int
    image_token: int


class Family(ABC):
    """One checkpoint's model, its modules found by role. Subclasses hold no maths of selection."""

    architectures: ClassVar[tuple[str, ...]]

    def __init__(self, config: Any, model: nn.Module) -> None:
        self.config, self.model = config, model

    @classmethod
    @abstractmethod
    def load_config(cls, directory: Path) -> Any:
        """The checkpoint's transformers config. Raises UserError where a value makes no sense."""

    @classmethod
    @abstractmethod
    def empty(cls, config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
        """The Hugging Face model, uninitialised, on the device in force, with the named attention function."""

    @classmethod
    @abstractmethod
    def reference(cls, directory: Path) -> nn.Module:
        """The plain Hugging Face model, eager attention, fp32, with the checkpoint's weights."""

    @abstractmethod
    def restore_buffers(self) -> None:
        """Give the model real values for what no checkpoint holds: position ids, rotary frequencies."""

    @staticmethod
    @abstractmethod
    def module_key(stored: str) -> str:
        """The parameter name in the model for a tensor name in the checkpoint (any known layout)."""

    @abstractmethod
    def facts(self, directory: Path) -> Facts:
        """Ids and sizes for the runtime."""

    @abstractmethod
    def shape(self, images: int) -> Shape:
        """Geometry for plans."""

    @abstractmethod
    def geometry(self, tokens: int) -> Geometry:
        """Geometry for costs, with `tokens` rows of one image through the projector."""

    @staticmethod
    @abstractmethod
    def preprocess(directory: Path) -> Mapping[str, Any]:
        """How a picture becomes pixels, as the bundle stores it. Raises UserError for what the runtime cannot do."""

    @property
    @abstractmethod
    def pixels(self) -> tuple[int, int, int]:
        """Channels, height and width of `pixel_values`."""

    @property
    @abstractmethod
    def widths(self) -> Widths:
        """The decoder's sizes."""

    @property
    @abstractmethod
    def prefix(self) -> int:
        """Tokens before the patches in the tower's sequence ([CLS])."""

    @abstractmethod
    def patch_embeddings(self, pixel_values: Tensor) -> Tensor:
        """`[B,3,H,W]` to the tower's input `[B,n,C]`."""

    @property
    @abstractmethod
    def tower(self) -> Stack:
        """The vision tower."""

    @property
    @abstractmethod
    def projector(self) -> Callable[[Tensor], Tensor]:
        """Tower width to decoder width, row by row."""

    @property
    @abstractmethod
    def token_embeddings(self) -> Callable[[Tensor], Tensor]:
        """Token ids to decoder inputs."""

    @property
    @abstractmethod
    def decoder(self) -> Stack:
        """The language model's layers."""

    @property
    @abstractmethod
    def head(self) -> Callable[[Tensor], Tensor]:
        """Final norm and vocabulary projection."""

    @abstractmethod
    def layers(self, stack: str) -> nn.ModuleList:
        """The stock layer modules of `tower` or `decoder`; each holds `self_attn` and `mlp`."""

    @abstractmethod
    def stock_tower(self, pixel_values: Tensor) -> None:
        """The stock tower's own forward; hooks on its layers see what they need."""

    @abstractmethod
    def stock_logits(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """The stock decoder's own forward, without cache: logits of all rows."""

    @abstractmethod
    def eager_qkv(
        self, attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[dict[bool, QKV], float]:
        """q, k, v of a stock attention module after and before rotation (by `rope`), and its softmax scale."""

    @classmethod
    @abstractmethod
    def stock_pixels(cls, directory: Path, picture: Path) -> Tensor:
        """A picture file through the checkpoint's own Hugging Face image processor, `[1,3,H,W]`."""
