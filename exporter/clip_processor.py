"""What a preprocessor_config.json of CLIP's kind says, for runtimes without transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.json_file import read_object
from exporter.config import refusals_in_words
from exporter.section import Section, shown

NAME = "preprocessor_config.json"
# The second is what old checkpoints call the first; the suffixes say on what it runs.
PROCESSORS = ("CLIPImageProcessor", "CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessorPil")
LARGEST_SIDE = 2**14
RESAMPLINGS = (0, 1, 2, 3, 4, 5)  # Pillow's


def clip_processor(directory: Path, kinds: Collection[str] = PROCESSORS) -> Mapping[str, Any]:
    """Resize, optional centre crop, rescale, normalise, as bundle.json stores them.

    `kinds` are the processors that may be named, first the one that is meant where none is.

    Raises:
        UserError: the file is missing or damaged, or asks for something else.
    """
    path = directory / NAME
    if not path.is_file():
        raise UserError(f"{directory}: no {NAME}; the checkpoint does not say how pictures are prepared")
    stored = Section(path, "", read_object(path))
    _check_steps(stored, kinds)
    crop = stored.one_of("do_center_crop", (True, False), default=True)
    told = {
        "size": _size(stored),
        "crop": _crop(stored) if crop else None,
        "resample": stored.one_of("resample", RESAMPLINGS, default=3),
        "rescale": stored.number("rescale_factor", 1 / 255),
        "mean": stored.three("image_mean"),
        "std": stored.three("image_std", positive=True),
        "views": None,
    }
    with refusals_in_words(path):
        from transformers import AutoImageProcessor

        AutoImageProcessor.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    return told


def output_size(preprocess: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of every prepared picture; None where they depend on the picture."""
    if preprocess["crop"] is not None:
        height, width = preprocess["crop"]
        return height, width
    size = preprocess["size"]
    return (size["height"], size["width"]) if "height" in size else None


def _check_steps(stored: Section, kinds: Collection[str]) -> None:
    named = "image_processor_type" if "image_processor_type" in stored.values else "feature_extractor_type"
    stored.one_of(named, kinds, default=next(iter(kinds)))
    for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        stored.one_of(step, (True,), default=True)


def _size(stored: Section) -> dict[str, int]:
    found = stored.get("size", {"shortest_edge": 224})
    given = found if isinstance(found, dict) else {"shortest_edge": found}
    sides = Section(stored.path, "size", {key: value for key, value in given.items() if value is not None})
    if set(sides.values) not in ({"shortest_edge"}, {"height", "width"}):
        raise stored.wrong("size", f"is {shown(found)}; it must hold shortest_edge, or height and width")
    return {key: sides.whole(key, most=LARGEST_SIDE) for key in sorted(sides.values)}


def _crop(stored: Section) -> list[int]:
    found = stored.get("crop_size", 224)
    given = found if isinstance(found, dict) else {"height": found, "width": found}
    sides = Section(stored.path, "crop_size", given)
    return [sides.whole(key, most=LARGEST_SIDE) for key in ("height", "width")]
