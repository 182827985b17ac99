"""What families that take videos share: their forms, and how the stock processor makes frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from engines.errors import UserError
from engines.videos import open_video
from exporter.form import Asked, Form

MOST_FRAMES = 256


def video_form(size: int, asked: Asked, frames: int) -> Form:
    """A video of as many frames as asked for, or as the model was made for.

    Raises:
        UserError: too few frames, or too many.
    """
    count = frames if asked.frames is None else asked.frames
    if not 2 <= count <= MOST_FRAMES:
        raise UserError(f"--frames {count}: a video has from 2 to {MOST_FRAMES} frames")
    return Form(kind="video", size=(size, size), views=count)


def frames_of(told: Any, form: Form) -> dict[str, Any]:
    """How every frame is prepared, told as one picture's."""
    return {**told, "views": {"kind": "frames", "count": form.views} if form.kind == "video" else told["views"]}


def stock_pictures(processor: Any, picture: Path, form: Form, **options: Any) -> Tensor:
    """A picture or a video's frames through a stock image processor: `[1,3,H,W]` or `[1,F,3,H,W]`."""
    if form.kind == "image":
        with Image.open(picture) as image:
            out: Tensor = processor(images=image.convert("RGB"), return_tensors="pt", **options)["pixel_values"]
        return out
    shown = open_video(picture).sampled(form.views)
    made = [processor(images=frame, return_tensors="pt", **options)["pixel_values"] for frame in shown]
    return torch.cat([pixels.reshape(1, -1, *pixels.shape[-3:])[:, 0] for pixels in made])[None]
