"""What bundle.json says about running the parts, with its types made sure of."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.forms import parse_forms, whole
from engines.geometry import Geometry

LARGEST_HEAD, LONGEST_SEGMENT, MOST_LAYERS = 2**16, 2**12, 1024
PARTS = ({"embed", "decoder"}, {"embed", "prefill", "decode"})
POSITIONS = {"renumber", "keep", "mrope"}


@dataclass(frozen=True)
class Contract:
    """The facts of a bundle.

    Attributes:
        geometry: The forms of picture, and what each is to the decoder.
        eos: Tokens that end an answer.
        hidden_size: D.
        kv_shape: (Hkv, d) of the decoder's cache.
        groups: The decoder's layers, in groups of equal cache length.
        inputs: The input names of each part.
        images: Pictures per prompt that a prefill part was made for.
        max_batch: Most sequences at once.
        max_length: Most slots of a cache, the first dummy included.
        max_positions: The model's position ids stay below this.
        segment: Tokens of one segment of a question that a text part reads; 0 without such a part.
    """

    geometry: Geometry
    eos: tuple[int, ...]
    hidden_size: int
    kv_shape: tuple[int, int]
    groups: tuple[range, ...]
    inputs: Mapping[str, tuple[str, ...]]
    images: int
    max_batch: int
    max_length: int
    max_positions: int
    segment: int

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
    if raw["positions"] not in POSITIONS:
        raise ValueError(f"positions {raw['positions']}")
    model, recipe = raw["model"], raw["recipe"]
    hidden = whole(model, "hidden_size")
    image = None if model["image_token_id"] is None else whole(model, "image_token_id", 0)
    geometry = Geometry(parse_forms(raw["pictures"], hidden), image, raw["positions"])
    inputs = {name: tuple(i["name"] for i in part["inputs"]) for name, part in raw["parts"].items()}
    _check_parts(geometry, inputs)
    return Contract(
        geometry=geometry,
        eos=tuple(int(token) for token in model["eos_token_ids"]),
        hidden_size=hidden,
        kv_shape=(whole(model, "kv_heads", most=LARGEST_HEAD), whole(model, "head_dim", most=LARGEST_HEAD)),
        groups=tuple(_layers(group["layers"]) for group in raw["groups"]),
        inputs=inputs,
        images=whole(recipe, "images"),
        max_batch=whole(recipe, "max_batch"),
        max_length=whole(recipe, "max_length"),
        max_positions=whole(model, "max_positions"),
        segment=_segment(raw["parts"]["text"]) if "text" in inputs else 0,
    )


def _check_parts(geometry: Geometry, inputs: Mapping[str, Sequence[str]]) -> None:
    """One vision part for each form, what reads the prompt, and a text part where a question is read."""
    vision = {form.part for form in geometry.forms}
    if {form.token_id for form in geometry.forms if form.kind == "image"} - {geometry.image_token_id}:
        raise ValueError(f"image_token_id {geometry.image_token_id}")
    if inputs.keys() - vision - {"text"} not in PARTS or not vision <= inputs.keys():
        raise ValueError(f"parts {', '.join(inputs)} for pictures of {', '.join(sorted(vision))}")
    if "text" not in inputs and any("clip_text" in inputs[part] for part in vision):
        raise ValueError("no part text, which clip_text comes from")
    if "prefill" in inputs and len({form.tokens for form in geometry.forms}) > 1:
        raise ValueError("tokens of the forms differ, and the decoder is cut")
    if geometry.positions == "mrope" and not all(form.mrope for form in geometry.forms):
        raise ValueError("mrope is missing")


def _segment(part: Mapping[str, Any]) -> int:
    [shape] = [port["shape"] for port in part["inputs"] if port["name"] == "input_ids"]
    return whole({"segment": shape[1]}, "segment", most=LONGEST_SEGMENT)


def _layers(ends: Sequence[int]) -> range:
    first, end = ends
    if not 0 <= first < end <= MOST_LAYERS:
        raise ValueError(f"layers {ends}")
    return range(first, end)


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
