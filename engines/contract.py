"""What bundle.json says about running the parts, with its types made sure of."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.forms import parse_forms, whole
from engines.geometry import Geometry
from engines.profiles import Limits
from engines.split import Split, parse_split

LARGEST_HEAD, LONGEST_SEGMENT, MOST_LAYERS = 2**16, 2**12, 1024
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
        narrow: Of these, the ones that are int32.
        split: How the decoder is called where it is two parts; None where it is one.
        limits: The most that the graphs were exported for.
        max_positions: The model's position ids stay below this.
        segment: Tokens of one segment of a question that a text part reads; 0 without such a part.
        batches: Most sequences or pictures at once of single parts, where that is less.
    """

    geometry: Geometry
    eos: tuple[int, ...]
    hidden_size: int
    kv_shape: tuple[int, int]
    groups: tuple[range, ...]
    inputs: Mapping[str, tuple[str, ...]]
    narrow: Mapping[str, frozenset[str]]
    split: Split | None
    limits: Limits
    max_positions: int
    segment: int
    batches: Mapping[str, int] = field(default_factory=dict)

    def narrowed(self, entry: Mapping[str, Any]) -> "Contract":
        """With the limits that a bundle's engines were built for.

        Raises:
            UserError: One is missing, or no whole number.
        """
        with wrong_entries_in_words("bundle.json"):
            batches = {part: whole(entry["batch"], part) for part in self.inputs}
            return replace(self, limits=Limits.of(entry["limits"]), batches=batches)

    def at_once(self, part: str) -> int:
        """Most sequences or pictures in one run of a part."""
        return min(self.limits.batch, self.batches.get(part, self.limits.batch))

    @property
    def images(self) -> int:
        """Pictures per prompt that a prefill part was made for."""
        return self.limits.images

    @property
    def max_batch(self) -> int:
        """Most sequences at once."""
        return self.limits.batch

    @property
    def max_length(self) -> int:
        """Most slots of a cache, the first dummy included."""
        return self.limits.length


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
    model, limits = raw["model"], Limits.of(raw["limits"])
    hidden = whole(model, "hidden_size")
    image = None if model["image_token_id"] is None else whole(model, "image_token_id", 0)
    geometry = Geometry(parse_forms(raw["pictures"], hidden), image, raw["positions"])
    inputs = {name: tuple(i["name"] for i in part["inputs"]) for name, part in raw["parts"].items()}
    kv_shape = (whole(model, "kv_heads", most=LARGEST_HEAD), whole(model, "head_dim", most=LARGEST_HEAD))
    groups = tuple(_group(group) for group in raw["groups"])
    split = parse_split(raw, limits, hidden, kv_shape[0] * kv_shape[1])
    _check_parts(geometry, inputs, split)
    return Contract(
        geometry=geometry,
        eos=tuple(int(token) for token in model["eos_token_ids"]),
        hidden_size=hidden,
        kv_shape=kv_shape,
        groups=groups,
        inputs=inputs,
        narrow={name: _narrow(part["inputs"]) for name, part in raw["parts"].items()},
        split=split,
        limits=limits,
        max_positions=whole(model, "max_positions"),
        segment=_segment(raw["parts"]["text"]) if "text" in inputs else 0,
    )


def _check_parts(geometry: Geometry, inputs: Mapping[str, Sequence[str]], split: Split | None) -> None:
    """One vision part for each form, what reads the prompt, and a text part where a question is read."""
    vision, decoder = {form.part for form in geometry.forms}, {"decoder"} if split is None else split.parts
    if {form.token_id for form in geometry.forms if form.kind == "image"} - {geometry.image_token_id}:
        raise ValueError(f"image_token_id {geometry.image_token_id}")
    if inputs.keys() - {"text"} != {"embed"} | decoder | vision:
        raise ValueError(f"parts {', '.join(inputs)} for pictures of {', '.join(sorted(vision))}")
    if "text" not in inputs and any("clip_text" in inputs[part] for part in vision):
        raise ValueError("no part text, which clip_text comes from")
    if split is not None and not split.whole and {form.tokens for form in geometry.forms} != {split.tokens} - {0}:
        raise ValueError("tokens of the forms differ, and the decoder is cut")
    if geometry.positions == "mrope" and not all(form.mrope for form in geometry.forms):
        raise ValueError("mrope is missing")


def _narrow(ports: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(port["name"] for port in ports if port.get("dtype") == "int32")


def _segment(part: Mapping[str, Any]) -> int:
    [shape] = [port["shape"] for port in part["inputs"] if port["name"] == "input_ids"]
    return whole({"segment": shape[1]}, "segment", most=LONGEST_SEGMENT)


def _group(raw: Mapping[str, Any]) -> range:
    """Its layers; the lengths are for people, engines say them themselves."""
    first, end = raw["layers"]
    if not 0 <= first < end <= MOST_LAYERS:
        raise ValueError(f"layers {raw['layers']}")
    whole(raw, "tokens", 0)
    if raw["fixed"] is not None:
        whole(raw, "fixed")
    return range(first, end)
