"""What bundle.json says about running the parts, with its types made sure of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.layout import Geometry

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
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"bundle.json: missing or wrong entry ({error}); export the bundle again") from None


def _parse(raw: Mapping[str, Any]) -> Contract:
    if raw["positions"] not in {"renumber", "keep"}:
        raise ValueError(f"positions {raw['positions']}")
    model, recipe, tokens = raw["model"], raw["recipe"], raw["tokens"]
    keep = raw["positions"] == "keep"
    return Contract(
        geometry=Geometry(int(model["image_token_id"]), int(tokens["embedded"]), int(tokens["patches"]), keep),
        preprocess={key: raw["preprocess"][key] for key in PREPROCESS},
        eos=tuple(int(token) for token in model["eos_token_ids"]),
        hidden_size=int(model["hidden_size"]),
        kv_shape=(int(model["kv_heads"]), int(model["head_dim"])),
        groups=tuple(range(*map(int, group["layers"])) for group in raw["groups"]),
        inputs={name: tuple(i["name"] for i in part["inputs"]) for name, part in raw["parts"].items()},
        images=int(recipe["images"]),
        max_batch=int(recipe["max_batch"]),
        max_length=int(recipe["max_length"]),
        max_positions=int(model["max_positions"]),
    )


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
    try:
        if target not in raw["engines"]:
            raise UserError(f"the bundle has no engines for {target}; it has {', '.join(raw['engines'])}")
        built = raw["engines"][target]
        if dtype in {None, built["dtype"]}:
            return built["dtype"], dict(built["files"])
        # Another precision needs no build where the graph itself is the engine.
        if any(Path(name).suffix != ".onnx" for name in built["files"].values()):
            raise UserError(f"the engines for {target} are {built['dtype']}, not {dtype}; build them in {dtype}")
        return str(dtype), {part: raw["parts"][part]["files"][str(dtype)] for part in built["files"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"bundle.json: no {dtype or 'usable'} files for {target} (entry {error})") from None
