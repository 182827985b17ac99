"""Pictures as several views: LLaVA-NeXT's tiles, the frames of a video, and which form of picture suits best."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.errors import UserError
from engines.forms import Form, view_size
from engines.images import preprocess, rgb, visible
from engines.videos import Picture, Video


def choose(forms: Sequence[Form], picture: Picture) -> int:
    """The number of the form for a picture: of those of its kind, the one whose canvas shows most of it.

    Raises:
        UserError: No form takes such a picture.
    """
    kind = "video" if isinstance(picture, Video) else "image"
    able = [number for number, form in enumerate(forms) if form.kind == kind]
    if not forms:
        raise UserError(f"this bundle reads text only: leave the {kind} out")
    if not able:
        raise UserError(f"this bundle takes no {kind}: give it {forms[0].kind}s, or export with --input {kind}")
    if isinstance(picture, Video):
        return able[0]
    return max(able, key=lambda number: fit(canvas(forms[number].preprocess), picture.size))


def canvas(spec: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height in pixels of what a form shows of a picture."""
    views = spec["views"]
    if views is None or views["kind"] != "tiles":
        height, width = view_size(spec)
        return width, height
    return views["cols"] * views["size"][1], views["rows"] * views["size"][0]


def fit(within: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """How well a picture of this size (width, height) fits; larger is better: pixels it keeps, then canvas it fills.

    LLaVA-NeXT's rule, `select_best_resolution` of its image processor.
    """
    scale = min(within[0] / size[0], within[1] / size[1])
    kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
    return kept, kept - within[0] * within[1]


def views_of(picture: Picture, spec: Mapping[str, Any]) -> list[Image.Image]:
    """The views of a picture as the model sees them.

    Args:
        picture: What `choose` found the form for.
        spec: The form's "preprocess".

    Raises:
        UserError: A view is too elongated.
    """
    return [visible(view, spec) for view in _views(picture, spec)]


def pixel_values(picture: Picture, spec: Mapping[str, Any]) -> NDArray[np.float32]:
    """Turns a picture into `[3,H,W]` float32, or `[V,3,H,W]` where the form has views; see `views_of`."""
    views = [preprocess(view, spec) for view in _views(picture, spec)]
    return views[0] if spec["views"] is None else np.stack(views)


def _views(picture: Picture, spec: Mapping[str, Any]) -> Sequence[Image.Image]:
    if isinstance(picture, Video):
        return picture.sampled(spec["views"]["count"])
    return [picture] if spec["views"] is None else _tiles(rgb(picture), spec)


def _tiles(image: Image.Image, spec: Mapping[str, Any]) -> list[Image.Image]:
    """The whole picture, squeezed; then the tiles of a black canvas with the picture in its middle, row by row."""
    (width, height), (across, down) = _whole(spec["size"]), spec["views"]["size"][::-1]
    whole = image.resize((width, height), resample=spec["resample"])
    sheet = Image.new("RGB", canvas(spec))
    fitted = image.resize(_fitted(image.size, sheet.size), resample=spec["resample"])
    sheet.paste(fitted, ((sheet.width - fitted.width) // 2, (sheet.height - fitted.height) // 2))
    corners = [(x, y) for y in range(0, sheet.height, down) for x in range(0, sheet.width, across)]
    return [whole, *(sheet.crop((x, y, x + across, y + down)) for x, y in corners)]


def _whole(size: Mapping[str, int]) -> tuple[int, int]:
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["width"], size["height"])


def _fitted(size: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
    """The largest size in the same proportions; the shorter side rounded up, as the processor does."""
    across, down = within[0] / size[0], within[1] / size[1]
    if across < down:
        return within[0], min(ceil(size[1] * across), within[1])
    return min(ceil(size[0] * down), within[0]), within[1]
