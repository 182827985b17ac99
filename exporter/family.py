"""What a model family says about itself: where its stacks, projector, embeddings and prompt places are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from engines.flops import Geometry
from exporter.clip_aux import ClipAux
from exporter.form import Asked, Form
from exporter.packed import Packed
from exporter.reducer import QKV, Shape
from exporter.stack import Stack


@dataclass(frozen=True)
class Facts:
    """Numbers and ids that the runtime needs; they go into the bundle as they are."""

    family: str
    image_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    vocab_size: int
    hidden_size: int
    layers: int
    kv_heads: int
    head_dim: int
    max_positions: int
    video_token_id: int | None = None


@dataclass(frozen=True)
class Widths:
    """The decoder's sizes that ports are made of, and the tokens that stand for pictures."""

    hidden: int
    kv_heads: int
    head_dim: int
    vocab: int
    placeholders: tuple[int, ...]


class Family(ABC):
    """One checkpoint's model for one form of picture, modules found by role. Subclasses hold no maths of selection.

    Attributes:
        architectures: what `config.json` calls it.
        title: its name in messages.
        unit: rows of the tower that make one prunable token.
        axes: numbers in one token's position.
        positions: how kept tokens are numbered, where the family and not the method decides it.
        offers: what methods may need of it: cls, clip (a tower of CLIP's), pixels, text, video.
        sees: whether it has a tower at all.
    """

    architectures: ClassVar[tuple[str, ...]]
    title: ClassVar[str]
    unit: ClassVar[int] = 1
    axes: ClassVar[int] = 1
    positions: ClassVar[str | None] = None
    offers: ClassVar[frozenset[str]] = frozenset({"text", "pixels"})
    sees: ClassVar[bool] = True

    def __init__(self, config: Any, model: nn.Module, form: Form | None = None) -> None:
        self.config, self.model = config, model
        self.form = self.forms(config, Asked())[0] if form is None else form

    def of(self, form: Form) -> Self:
        """The same model for another form of picture."""
        return type(self)(self.config, self.model, form)

    @classmethod
    @abstractmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """The forms of picture to export for. Raises UserError for what this checkpoint cannot take."""

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

    @abstractmethod
    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """How a picture becomes pixels, as the bundle stores it. Raises UserError for what the runtime cannot do."""

    @property
    @abstractmethod
    def pixels(self) -> tuple[int, ...]:
        """(Views,) channels, height and width of `pixel_values`; views only where there are several."""

    @property
    def placeholder(self) -> int:
        """The token that stands for a picture of this form in a prompt."""
        return self.widths.placeholders[0]

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
        """`[B,(V,)3,H,W]` to the tower's input `[B*V,n,C]`."""

    @property
    @abstractmethod
    def tower(self) -> Stack:
        """The vision tower."""

    @property
    @abstractmethod
    def projector(self) -> Callable[[Tensor], Tensor]:
        """Tower width to decoder width, token by token: `[B,k*unit,C]` to `[B,k,D]`."""

    @property
    def seen(self) -> int:
        """Tokens of one view in the tower."""
        return self.shape(1).patches

    @property
    def pooling(self) -> Tensor | None:
        """`[patches,seen]` fp32, which multiplies the rows of an uncut view behind the projector."""
        return None

    @property
    def keeps_cls(self) -> bool:
        """Whether the decoder reads each view's [CLS] row where nothing is pruned."""
        return False

    def stitch(self, kept: Tensor) -> Tensor | None:
        """The order `[B,V*k]` of a picture's tokens, for kept patch numbers `[B,V,k]`; None: view after view."""
        del kept
        return None

    def numbers(self, kept: Tensor) -> Tensor:
        """Patch numbers `[...,V,k]` within each view as places among an uncut picture's rows; negative ones stay."""
        first = torch.arange(self.form.views)[:, None] * self.shape(1).patches
        return torch.where(kept < 0, kept, kept + first)

    @property
    def added(self) -> int:
        """How many rows `complete` adds."""
        return 0

    @property
    def mrope(self) -> Mapping[str, Any] | None:
        """What three-axis positions are made of: `grid` (frames, rows, columns) and the `step` from frame to frame."""
        return None

    @property
    def clip(self) -> ClipAux:
        """The CLIP text tower beside the model, where one was given."""
        found = self.model.clip
        assert isinstance(found, ClipAux)
        return found

    @property
    def clip_width(self) -> int:
        """Width of the CLIP text tower's space."""
        return self.clip.visual_projection.out_features

    def complete(self, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `[B,T,D]` and patch numbers `[B,T]` of a picture with what the family adds to an uncut one."""
        return rows, kept

    def aligned(self, states: Tensor, *, norm: bool) -> Tensor:
        """Tower states `[...,C]` in the space of the CLIP text tower `[...,P]`."""
        return self.clip.aligned(states, norm=norm)

    def places(self, kept: Tensor, *, keep: bool) -> tuple[Tensor, int]:
        """Positions of a picture's rows relative to its first, `[k]` or `[axes,k]`; how far the text behind moves."""
        count = self.shape(1).tokens + self.added
        return (kept, count) if keep else (torch.arange(len(kept)), len(kept))

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
        """The stock layer modules of `tower` or `decoder`; each holds `self_attn` (or `attn`) and `mlp`."""

    @property
    def packed(self) -> Packed | None:
        """How the stock tower orders its rows, where it is not as in the picture and behind a batch axis."""
        return None

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

    @abstractmethod
    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """A picture file through the checkpoint's own Hugging Face processor, `[1,(V,)3,H,W]`."""

    def stock_views(self, pixel_values: Tensor) -> list[Tensor]:
        """What the stock tower is called with, view by view, for one picture."""
        return [pixel_values] if self.form.views == 1 else [pixel_values[:, view] for view in range(self.form.views)]
