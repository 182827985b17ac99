"""Video-LLaVA: one CLIP-like tower for pictures, one for the frames of videos; LLaVA's projector and decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporter import clip_tower
from exporter.clip_llama import ClipLlama
from exporter.clip_processor import clip_processor
from exporter.form import Asked, Form
from exporter.video import frames_of, stock_pictures, video_form

PROCESSORS = ("VideoLlavaImageProcessor", "CLIPImageProcessor", "CLIPImageProcessorPil")
FRAMES = 8


class VideoLlava(ClipLlama):
    """Where the tensors of `VideoLlavaForConditionalGeneration` live.

    A bundle takes videos, or with `--input image` pictures. The model's own video features hold each frame's [CLS]
    row; so do ours where nothing is pruned.
    """

    architectures = ("VideoLlavaForConditionalGeneration",)
    title = "Video-LLaVA"
    kind = "video_llava"
    config_class = "VideoLlavaConfig"
    tokens = ("image_token_id", "video_token_id")
    offers = frozenset({"cls", "text", "video", "pixels"})
    renames = (
        (re.compile(r"^(model\.)?(image|video)_tower\.(vision_model\.)?"), r"model.\2_tower."),
        (re.compile(r"^(model\.)?multi_modal_projector\."), "model.multi_modal_projector."),
        (re.compile(r"^language_model\.lm_head\."), "lm_head."),
        (re.compile(r"^(language_model\.model\.|model\.language_model\.(?!lm_head))"), "model.language_model."),
    )

    @classmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """A video, or a picture."""
        asked.refuse(cls.title, "--grid", "--image-size")
        size = config.vision_config.image_size
        if asked.input == "image":
            asked.refuse(cls.title, "--frames")
            return (Form(size=(size, size)),)
        return (video_form(size, asked, FRAMES),)

    def restore_buffers(self) -> None:
        """Of both towers."""
        super().restore_buffers()
        for tower in (self._inner.image_tower, self._inner.video_tower):
            clip_tower.restore_positions(tower)

    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """CLIP's, for each frame."""
        return frames_of(clip_processor(directory, PROCESSORS), self.form)

    @property
    def placeholder(self) -> int:
        """`<image>` or `<video>`."""
        return self.widths.placeholders[self.form.kind == "video"]

    @property
    def keeps_cls(self) -> bool:
        """Of frames."""
        return self.form.kind == "video"

    @property
    def added(self) -> int:
        """A [CLS] row for each frame."""
        return self.form.views if self.keeps_cls else 0

    def numbers(self, kept: Tensor) -> Tensor:
        """With the frames' [CLS] rows counted."""
        if not self.keeps_cls:
            return super().numbers(kept)
        first = torch.arange(self.form.views)[:, None] * (self.shape(1).patches + 1) + 1
        return torch.where(kept < 0, kept, kept + first)

    def complete(self, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """[CLS] rows are there already; rows are numbered as the model reads them."""
        return rows, torch.arange(kept.shape[1]).expand(kept.shape[0], -1)

    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """CLIP's image processor on Pillow, frame by frame."""
        from transformers import CLIPImageProcessorPil

        processor = CLIPImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
        return stock_pictures(processor, picture, self.form)

    @property
    def _tower(self) -> Any:
        return self._inner.video_tower if self.form.kind == "video" else self._inner.image_tower


FAMILY = VideoLlava
