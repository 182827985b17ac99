"""LLaVA-NeXT (LLaVA-1.6): LLaVA's modules on pictures of any resolution, cut into tiles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from engines.errors import UserError
from engines.json_file import read_object
from exporter import tiles
from exporter.clip_llama import ClipLlama
from exporter.clip_processor import NAME as PROCESSOR
from exporter.clip_processor import clip_processor
from exporter.form import Asked, Form
from exporter.reducer import Shape
from exporter.section import Section

PROCESSORS = ("LlavaNextImageProcessor", "LlavaNextImageProcessorFast", "LlavaNextImageProcessorPil")


class LlavaNext(ClipLlama):
    """Where the tensors of `LlavaNextForConditionalGeneration` live, and how its tiles follow each other.

    One vision part for each grid of tiles, so that every shape is constant. Two things differ from the model's own
    `spatial_unpad`: the rows of a canvas' black borders stay (a picture with the canvas' own proportions has none),
    and the row that ends each line of the canvas (`image_newline`) is only there where nothing is pruned.
    """

    architectures = ("LlavaNextForConditionalGeneration",)
    title = "LLaVA-NeXT"
    kind = "llava_next"
    config_class = "LlavaNextConfig"
    texts = ("llama", "mistral")
    # As the hub stores them, and transformers 5 with and without its `model.` prefix.
    renames = (
        (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "model.vision_tower."),
        (re.compile(r"^(model\.)?(multi_modal_projector\.|image_newline$)"), r"model.\2"),
        (re.compile(r"^language_model\.lm_head\."), "lm_head."),
        (re.compile(r"^(language_model\.model\.|model\.language_model\.(?!lm_head))"), "model.language_model."),
    )

    @classmethod
    def load_config(cls, directory: Path) -> Any:
        """As LLaVA's; Mistral's must attend to the whole past, and tiles must fill every resolution."""
        config, path = super().load_config(directory), directory / "config.json"
        Section(path, "text_config", config.text_config).one_of("sliding_window", (None,), default=None)
        tiles.tile_grids(Section(path, "", config), config.vision_config.image_size)
        return config

    @classmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """One for each grid of tiles."""
        asked.refuse(cls.title, "--image-size", "--frames")
        if asked.input == "video":
            raise UserError(f"--input video: {cls.title} takes pictures only")
        tile = config.vision_config.image_size
        return tiles.tile_forms(tiles.tile_grids(Section(Path("config.json"), "", config), tile), tile, asked)

    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """Tiles, each as CLIP's image processor makes it."""
        told, path = clip_processor(directory, PROCESSORS), directory / PROCESSOR
        if told["crop"] is None:
            raise UserError(
                f"{path}: do_center_crop is false; the size of tiles is crop_size, with which it must be true"
            )
        stored = Section(path, "", read_object(path))
        if "image_grid_pinpoints" in stored.values:
            self._check_grids(stored)
        (rows, cols), size = self._tiles, list(self.form.size)
        return {**told, "views": {"kind": "tiles", "rows": rows, "cols": cols, "size": size}}

    def _check_grids(self, stored: Section) -> None:
        """The processor chooses among the resolutions that the model knows."""
        tile = self.config.vision_config.image_size
        known = tiles.tile_grids(Section(stored.path, "config.json's", self.config), tile)
        if tiles.tile_grids(stored, tile) != known:
            raise stored.wrong("image_grid_pinpoints", "differs from config.json's: they must be the same")

    def shape(self, images: int) -> Shape:
        """With the order of the canvas."""
        shape = super().shape(images)
        return replace(shape, places=tiles.list_places(shape.grid, self._tiles))

    def stitch(self, kept: Tensor) -> Tensor:
        """The whole picture, then the canvas of tiles row by row."""
        return tiles.stitched(kept, self.shape(1).grid, self._tiles)

    def numbers(self, kept: Tensor) -> Tensor:
        """With the rows that end the canvas' lines counted."""
        return tiles.numbered(kept, self.shape(1).grid, self._tiles)

    @property
    def added(self) -> int:
        """One for each line of the canvas."""
        return self._tiles[0] * self.shape(1).grid.rows

    def complete(self, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Every line of the canvas ends in `image_newline`; rows are numbered as the model reads them."""
        whole = tiles.with_newlines(rows, self._inner.image_newline, self.shape(1).grid, self._tiles)
        return whole, torch.arange(whole.shape[1]).expand(kept.shape[0], -1)

    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """LLaVA-NeXT's image processor on Pillow, with no choice but this form's canvas."""
        from transformers import LlavaNextImageProcessorPil

        processor = LlavaNextImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
        canvas = [count * side for count, side in zip(self._tiles, self.form.size, strict=True)]
        with Image.open(picture) as image:
            made = processor(images=image.convert("RGB"), image_grid_pinpoints=[canvas], return_tensors="pt")
        out: Tensor = made["pixel_values"]
        return out

    @property
    def _tiles(self) -> tuple[int, int]:
        assert self.form.tiles is not None
        return self.form.tiles


FAMILY = LlavaNext
