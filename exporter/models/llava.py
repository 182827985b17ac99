"""LLaVA-1.5: CLIP tower with [CLS], MLP projector, LLaMA decoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from engines.errors import UserError
from exporter.clip_llama import ClipLlama
from exporter.form import Asked, Form


class Llava(ClipLlama):
    """Where the tensors of `LlavaForConditionalGeneration` live."""

    architectures = ("LlavaForConditionalGeneration",)
    title = "LLaVA-1.5"
    kind = "llava"
    config_class = "LlavaConfig"
    # Stored names differ by who saved the file: the hub's, and transformers 5's with and without its `model.` prefix.
    renames = (
        (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "model.vision_tower."),
        (re.compile(r"^(model\.)?multi_modal_projector\."), "model.multi_modal_projector."),
        (re.compile(r"^language_model\.lm_head\."), "lm_head."),
        (re.compile(r"^(language_model\.model\.|model\.language_model\.(?!lm_head))"), "model.language_model."),
    )

    @classmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """One: a square picture."""
        asked.refuse(cls.title, "--grid", "--image-size", "--frames")
        if asked.input == "video":
            raise UserError(f"--input video: {cls.title} takes pictures only")
        return (Form(size=(config.vision_config.image_size,) * 2),)

    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """CLIP's image processor, on Pillow: the one that checkpoints were trained and evaluated with."""
        from transformers import CLIPImageProcessorPil

        processor = CLIPImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
        with Image.open(picture) as image:
            out: Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        return out


FAMILY = Llava
