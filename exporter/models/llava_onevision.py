"""LLaVA-OneVision: SigLIP tower without [CLS], MLP projector, Qwen2 decoder; pictures, tiled pictures, videos."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.flops import Geometry
from exporter import clip_tower, tiles
from exporter.clip_llama import ClipLlama
from exporter.clip_processor import clip_processor
from exporter.form import Asked, Form
from exporter.pooling import pooled_grid, pooling_matrix
from exporter.reducer import Shape
from exporter.section import Section
from exporter.video import frames_of, stock_pictures, video_form

PROCESSORS = ("LlavaOnevisionImageProcessor", "LlavaOnevisionImageProcessorFast", "LlavaOnevisionImageProcessorPil")
FRAMES = 32


class LlavaOnevision(ClipLlama):
    """Where the tensors of `LlavaOnevisionForConditionalGeneration` live.

    By default a picture is seen whole, in one view, squeezed into a square; the model's own processor does so only for
    the view that tiles follow, and pads each of several pictures instead. `--grid RxC` adds tiles as in LLaVA-NeXT, up
    to nine, which need no interpolation. Frames of a video are pooled to half their rows and columns behind the
    projector: nothing can be cut in the tower there.
    """

    architectures = ("LlavaOnevisionForConditionalGeneration",)
    title = "LLaVA-OneVision"
    kind = "llava_onevision"
    config_class = "LlavaOnevisionConfig"
    towers = ("siglip_vision_model",)
    texts = ("qwen2",)
    strategies = ("full",)
    tokens = ("image_token_id", "video_token_id")
    offers = frozenset({"text", "video", "pixels"})
    renames = (
        (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "model.vision_tower."),
        (re.compile(r"^(model\.)?(multi_modal_projector\.|image_newline$)"), r"model.\2"),
        (re.compile(r"^language_model\.lm_head\."), "lm_head."),
        (re.compile(r"^(language_model\.model\.|model\.language_model\.(?!lm_head))"), "model.language_model."),
    )

    most_tiles = 9  # more are interpolated to as many

    @classmethod
    def load_config(cls, directory: Path) -> Any:
        """As LLaVA's; as many tiles as this family knows must need no interpolation."""
        config, most = super().load_config(directory), f"anyres_max_{cls.most_tiles}"
        Section(directory / "config.json", "", config).one_of("vision_aspect_ratio", (most,), default=most)
        return config

    @classmethod
    def forms(cls, config: Any, asked: Asked) -> tuple[Form, ...]:
        """A picture, its tiles, or a video."""
        asked.refuse(cls.title, "--image-size")
        size = config.vision_config.image_size
        if asked.input == "video":
            asked.refuse(cls.title, "--grid")
            return (video_form(size, asked, FRAMES),)
        asked.refuse(cls.title, "--frames")
        if not asked.grids:
            return (Form(size=(size, size)),)
        allowed = tiles.tile_grids(Section(Path("config.json"), "", config), size)
        return tiles.tile_forms([grid for grid in allowed if grid.rows * grid.cols <= cls.most_tiles], size, asked)

    def shape(self, images: int) -> Shape:
        """SigLIP's grid; a frame's is pooled."""
        shape = super().shape(images)
        if self.form.kind == "image":
            places = () if self.form.tiles is None else tiles.list_places(shape.grid, self.form.tiles)
            return replace(shape, has_cls=False, places=places)
        grid = pooled_grid(shape.grid)
        return replace(shape, has_cls=False, grid=grid, patches=grid.rows * grid.cols, pooled=True)

    def geometry(self, tokens: int) -> Geometry:
        """Of a video, all rows go through the projector."""
        return super().geometry(tokens if self.form.kind == "image" else self.form.views * self.seen)

    @property
    def seen(self) -> int:
        """All of SigLIP's patches."""
        grid = clip_tower.patch_grid(self.config.vision_config)
        return grid.rows * grid.cols

    @property
    def pooling(self) -> Tensor | None:
        """Of frames."""
        if self.form.kind == "image":
            return None
        return pooling_matrix(clip_tower.patch_grid(self.config.vision_config))

    def preprocess(self, directory: Path) -> Mapping[str, Any]:
        """SigLIP's square, for the picture, each tile or each frame."""
        told = {**clip_processor(directory, PROCESSORS), "crop": None}
        if self.form.tiles is None:
            return frames_of(told, self.form)
        (rows, cols), size = self.form.tiles, list(self.form.size)
        return {**told, "views": {"kind": "tiles", "rows": rows, "cols": cols, "size": size}}

    @property
    def placeholder(self) -> int:
        """`<image>` or `<video>`."""
        return self.widths.placeholders[self.form.kind == "video"]

    @property
    def prefix(self) -> int:
        """No [CLS]."""
        return 0

    def patch_embeddings(self, pixel_values: Tensor) -> Tensor:
        """Patches and positions."""
        out: Tensor = self._tower.embeddings(pixel_values.flatten(0, -4))
        return out

    def stitch(self, kept: Tensor) -> Tensor | None:
        """The whole picture, then the canvas of tiles row by row."""
        return None if self.form.tiles is None else tiles.stitched(kept, self.shape(1).grid, self.form.tiles)

    def numbers(self, kept: Tensor) -> Tensor:
        """With the rows that end the canvas' lines counted."""
        grid = self.shape(1).grid
        return super().numbers(kept) if self.form.tiles is None else tiles.numbered(kept, grid, self.form.tiles)

    @property
    def added(self) -> int:
        """`image_newline` once, or behind each line of the canvas."""
        return 1 if self.form.tiles is None else self.form.tiles[0] * self.shape(1).grid.rows

    def complete(self, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """With `image_newline`; rows are numbered as the model reads them."""
        newline = self._inner.image_newline
        if self.form.tiles is None:
            whole = torch.cat([rows, newline.to(rows.dtype).expand(rows.shape[0], 1, -1)], 1)
        else:
            whole = tiles.with_newlines(rows, newline, self.shape(1).grid, self.form.tiles)
        return whole, torch.arange(whole.shape[1]).expand(kept.shape[0], -1)

    def stock_pixels(self, directory: Path, picture: Path) -> Tensor:
        """LLaVA-OneVision's image processor on Pillow: one view, this form's canvas, or frame by frame."""
        from transformers import LlavaOnevisionImageProcessorPil

        processor = LlavaOnevisionImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
        if self.form.tiles is None:
            made = stock_pictures(processor, picture, self.form, image_grid_pinpoints=[list(self.form.size)])
            return made if self.form.kind == "video" else made[:, 0]
        canvas = [count * side for count, side in zip(self.form.tiles, self.form.size, strict=True)]
        return stock_pictures(processor, picture, self.form, image_grid_pinpoints=[canvas])


FAMILY = LlavaOnevision
