"""What bundle.json says about running the parts, with its types made sure of."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import UserError
from engines.layout import Geometry

LARGEST_IMAGE, LARGEST_HEAD, LARGEST_SIDE, MOST_LAYERS = 2**28, 2**16, 2**14, 1024
PARTS = ({"vision", "embed", "decoder"}, {"vision", "embed", "prefill", "decode"})
PREPROCESS = ("size", "crop", "resample", "rescale", "mean", "std")


@dataclass(frozen=True)
class Contract:
    """The facts of a bundle.

    Attributes:
        geometry: What one picture is to the decoder.
        preprocess: How a picture becomes pixel values.
        eos: Tokens that end an answer.
        hidden_size: D.
        kv_shape: (Hkv, d) of the decoder's cache.
        groups: The decoder's layers, in groups of equal cache length.
        inputs: The input names of each part.
        images: Pictures per prompt that a prefill part was made for.
        max_batch: Most sequences at once.
        max_length: Most slots of a cache, the first dummy included.
        max_positions: The model's position ids stay below this.
    """

    geometry: Geometry
    preprocess: Mapping[str, Any]
    eos: tuple[int, ...]
    hidden_size: int
    kv_shape: tuple[int, int]
    groups: tuple[range, ...]
    inputs: Mapping[str, tuple[str, ...]]
    images: int
    max_batch: int
    max_length: int
    max_positions: int

    @property
    def split(self) -> bool:
        """Whether the decoder is two parts, prefill and decode."""
        return "decoder" not in self.inputs


def parse(raw: Mapping[str, Any]) -> Contract:
    """Takes the facts out of bundle.json's content.

    Raises:
        UserError: Something is missing or of a wrong type.
    """
    with wrong_entries_in_words("bundle.json"):
        return _parse(raw)


@contextmanager
def wrong_entries_in_words(file: str | Path) -> Iterator[None]:
    """Turns what Python raises over missing entries, wrong types and shapes that do not fit into one line."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{file}: missing or wrong entry ({error}); export the bundle again") from None


def _parse(raw: Mapping[str, Any]) -> Contract:
    if raw["positions"] not in {"renumber", "keep"}:
        raise ValueError(f"positions {raw['positions']}")
    model, recipe, tokens = raw["model"], raw["recipe"], raw["tokens"]
    keep, embedded, hidden = raw["positions"] == "keep", _whole(tokens, "embedded"), _whole(model, "hidden_size")
    if embedded * hidden > LARGEST_IMAGE:
        raise ValueError(f"{embedded} x {hidden} numbers for one picture")
    if set(raw["parts"]) not in PARTS:
        raise ValueError(f"parts {', '.join(raw['parts'])}")
    return Contract(
        geometry=Geometry(_whole(model, "image_token_id", 0), embedded, _whole(tokens, "patches"), keep),
        preprocess=_preprocess(raw["preprocess"]),
        eos=tuple(int(token) for token in model["eos_token_ids"]),
        hidden_size=hidden,
        kv_shape=(_whole(model, "kv_heads", most=LARGEST_HEAD), _whole(model, "head_dim", most=LARGEST_HEAD)),
        groups=tuple(_layers(group["layers"]) for group in raw["groups"]),
        inputs={name: tuple(i["name"] for i in part["inputs"]) for name, part in raw["parts"].items()},
        images=_whole(recipe, "images"),
        max_batch=_whole(recipe, "max_batch"),
        max_length=_whole(recipe, "max_length"),
        max_positions=_whole(model, "max_positions"),
    )


def _whole(entry: Mapping[str, Any], key: str, least: int = 1, most: int = 2**31) -> int:
    found = entry[key]
    if type(found) is not int or not least <= found <= most:
        raise ValueError(f"{key} {found!r}")
    return found


def _layers(ends: Sequence[int]) -> range:
    first, end = ends
    if not 0 <= first < end <= MOST_LAYERS:
        raise ValueError(f"layers {ends}")
    return range(first, end)


def _preprocess(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Checked, because arithmetic on pictures would not notice."""
    found = {key: raw[key] for key in PREPROCESS}
    for key in found["size"]:
        _whole(found["size"], key, most=LARGEST_SIDE)
    if found["crop"] is not None:
        height, width = found["crop"]
        for side in (height, width):
            _whole({"crop": side}, "crop", most=LARGEST_SIDE)
    _whole(found, "resample", 0, 5)
    numbers = np.array([*found["mean"], *found["std"], found["rescale"]], np.float64)
    if len(found["mean"]) != 3 or len(found["std"]) != 3 or not np.isfinite(numbers).all() or 0 in found["std"]:
        raise ValueError("mean, std or rescale")
    return found


def engine_files(raw: Mapping[str, Any], target: str, dtype: str | None) -> tuple[str, dict[str, str]]:
    """Finds the files of a target's engines.

    Args:
        raw: bundle.json's content.
        target: One of the bundle's targets.
        dtype: "fp32", "fp16" …; None for the one that the target's engines were built in.

    Returns:
        The precision, and the file name of each part.

    Raises:
        UserError: The bundle has no such engines.
    """
    with wrong_entries_in_words("bundle.json"):
        if target == "ort-cpu":  # its engines are the graphs, always there
            return _graphs(raw["parts"], dtype or "fp32")
        if target not in raw["engines"]:
            raise UserError(f"the bundle has no engines for {target}; it has {', '.join(raw['engines'])}")
        built = raw["engines"][target]
        if dtype in {None, built["dtype"]}:
            return str(built["dtype"]), dict(built["files"])
        raise UserError(f"the engines for {target} are {built['dtype']}, not {dtype}; build them in {dtype}")


def _graphs(parts: Mapping[str, Any], dtype: str) -> tuple[str, dict[str, str]]:
    if any(dtype not in part["files"] for part in parts.values()):
        raise UserError(f"the bundle has no {dtype} files: export it with a target or --dtype that computes in {dtype}")
    return dtype, {name: part["files"][dtype] for name, part in parts.items()}
