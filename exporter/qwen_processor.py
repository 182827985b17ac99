"""Pictures of one fixed size for Qwen2.5-VL: which sizes its processor makes, and how it makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.json_file import read_object
from exporter.clip_processor import NAME, RESAMPLINGS
from exporter.config import refusals_in_words
from exporter.form import pair
from exporter.section import Section, shown

PROCESSORS = (
    "Qwen2VLImageProcessor",
    "Qwen2VLImageProcessorFast",
    "Qwen2VLImageProcessorPil",
    "Qwen2_5_VLImageProcessor",
)
DEFAULT = "448x448"
BOUNDS = (56 * 56, 28 * 28 * 1280)  # fewest and most pixels where the file says nothing
MOST_PIXELS = 2**31 - 1
ASPECT = 200  # the most elongated picture that the processor takes


def pixel_bounds(directory: Path) -> tuple[int, int]:
    """Fewest and most pixels of a picture that the checkpoint's processor makes.

    Raises:
        UserError: the file is damaged, or its bounds make no sense.
    """
    path = directory / NAME
    if not path.is_file():
        return BOUNDS  # `qwen_processor` refuses it
    stored = Section(path, "", read_object(path))
    found = stored.get("size", {})
    if not isinstance(found, dict) or not {"shortest_edge", "longest_edge"} >= set(found):
        raise stored.wrong("size", f"is {shown(found)}; it must hold shortest_edge and longest_edge")
    sizes = Section(path, "size", found)
    bounds = [
        stored.whole(own, most=MOST_PIXELS) if own in stored.values else sizes.whole(edge, default, most=MOST_PIXELS)
        for own, edge, default in zip(
            ("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge"), BOUNDS, strict=True
        )
    ]
    if bounds[0] > bounds[1]:
        raise UserError(f"{path}: pictures of at least {bounds[0]} and at most {bounds[1]} pixels: there are none")
    return bounds[0], bounds[1]


def picture_size(asked: str | None, cell: int, bounds: tuple[int, int]) -> tuple[int, int]:
    """Height and width: what the processor would make of a picture of the size asked for, a multiple of `cell`.

    Raises:
        UserError: no size, or one that the processor refuses.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    width, height = pair("--image-size", DEFAULT if asked is None else asked)
    if max(width, height) > ASPECT * min(width, height):
        raise UserError(f"--image-size {asked}: one side is more than {ASPECT} times the other")
    made: tuple[int, int] = smart_resize(max(height, cell), max(width, cell), cell, *bounds)
    return made


def qwen_processor(directory: Path, vision: Any, size: tuple[int, int]) -> Mapping[str, Any]:
    """Resize to `size` (height, width), rescale, normalise, as bundle.json stores them.

    Raises:
        UserError: the file is missing or damaged, asks for something else, or cuts other patches than `vision` takes.
    """
    path = directory / NAME
    if not path.is_file():
        raise UserError(f"{directory}: no {NAME}; the checkpoint does not say how pictures are prepared")
    stored = Section(path, "", read_object(path))
    stored.one_of("image_processor_type", PROCESSORS, default=PROCESSORS[0])
    for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        stored.one_of(step, (True,), default=True)
    for key, want in (
        ("patch_size", vision.patch_size),
        ("merge_size", vision.spatial_merge_size),
        ("temporal_patch_size", vision.temporal_patch_size),
    ):
        stored.one_of(key, (want,), default=want)
    told = {
        "size": {"height": size[0], "width": size[1]},
        "crop": None,
        "resample": stored.one_of("resample", RESAMPLINGS, default=3),
        "rescale": stored.number("rescale_factor", 1 / 255),
        "mean": stored.three("image_mean"),
        "std": stored.three("image_std", positive=True),
        "views": None,
    }
    with refusals_in_words(path):
        stock_processor(directory)
    return told


def stock_processor(directory: Path) -> Any:
    """The checkpoint's own Hugging Face processor, on Pillow."""
    from transformers import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
