"""The forms of picture that a bundle takes, one vision part each, with their types made sure of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

LARGEST_SIDE, LARGEST_VIEWS, LARGEST_ROWS, MOST_VIEWS = 2**14, 2**26, 2**28, 2**10
VIEWS = {"image": {"whole", "tiles"}, "video": {"frames"}}
PREPROCESS = ("size", "crop", "resample", "rescale", "mean", "std", "views")


class Mrope(NamedTuple):
    """What positions on three axes are made of: frames, rows and columns, and the step from frame to frame."""

    frames: int
    rows: int
    cols: int
    step: int


@dataclass(frozen=True)
class Form:
    """One kind of picture.

    Attributes:
        part: The vision part that takes it.
        kind: "image" or "video".
        token_id: The token that stands for one such picture in a prompt.
        views: Crops or frames.
        grid: Rows and columns of one view, in prunable tokens.
        tokens: K, rows one picture takes in a prompt.
        patches: Positions one picture takes where positions are kept: the rows of the unpruned picture.
        mrope: Where positions have three axes.
        preprocess: How a picture becomes pixel values.
    """

    part: str
    kind: str
    token_id: int
    views: int
    grid: tuple[int, int]
    tokens: int
    patches: int
    mrope: Mrope | None
    preprocess: Mapping[str, Any]


def parse_forms(raw: Sequence[Mapping[str, Any]], hidden: int) -> tuple[Form, ...]:
    """Takes the forms out of bundle.json's "pictures".

    Args:
        raw: The entries.
        hidden: Width of one row.

    Raises:
        LookupError, TypeError, ValueError: An entry is missing or wrong.
    """
    forms = tuple(_form(entry) for entry in raw)
    parts = [form.part for form in forms]
    if len(set(parts)) < len(parts):
        raise ValueError(f"pictures: {len(forms)} forms for the parts {', '.join(parts)}")
    for form in forms:
        if form.tokens * hidden > LARGEST_ROWS:
            raise ValueError(f"{form.tokens} x {hidden} numbers for one picture")
    return forms


def _form(raw: Mapping[str, Any]) -> Form:
    part, kind = raw["part"], raw["kind"]
    if not re.fullmatch(r"vision(\..+)?", part) or kind not in {"image", "video"}:
        raise ValueError(f"part {part!r}, kind {kind!r}")
    rows, cols = raw["grid"]
    form = Form(
        part=part,
        kind=kind,
        token_id=whole(raw, "token_id", 0),
        views=whole(raw, "views", most=MOST_VIEWS),
        grid=(whole({"grid": rows}, "grid", most=LARGEST_SIDE), whole({"grid": cols}, "grid", most=LARGEST_SIDE)),
        tokens=whole(raw, "tokens"),
        patches=whole(raw, "patches"),
        mrope=None if raw["mrope"] is None else _mrope(raw["mrope"]),
        preprocess=_preprocess(raw["preprocess"]),
    )
    if form.mrope and form.patches != np.prod(form.mrope[:3], dtype=np.int64):
        raise ValueError(f"mrope {form.mrope} for {form.patches} patches")
    _check_views(form)
    return form


def _mrope(raw: Mapping[str, Any]) -> Mrope:
    frames, rows, cols = (whole({"grid": size}, "grid", most=LARGEST_SIDE) for size in raw["grid"])
    return Mrope(frames, rows, cols, whole(raw, "step", 0, LARGEST_SIDE))


def _preprocess(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Checked, because arithmetic on pictures would not notice."""
    found = {key: raw[key] for key in PREPROCESS}
    if set(found["size"]) not in ({"shortest_edge"}, {"height", "width"}):
        raise ValueError(f"size {found['size']!r}: neither shortest_edge nor height and width")
    for key in found["size"]:
        whole(found["size"], key, most=LARGEST_SIDE)
    if found["crop"] is not None:
        _sides("crop", found["crop"])
    whole(found, "resample", 0, 5)
    numbers = np.array([*found["mean"], *found["std"], found["rescale"]], np.float64)
    if len(found["mean"]) != 3 or len(found["std"]) != 3 or not np.isfinite(numbers).all() or 0 in found["std"]:
        raise ValueError("mean, std or rescale")
    return found


def _check_views(form: Form) -> None:
    """Crops are the whole picture and its tiles; frames come from videos; and all of them fit into memory."""
    raw, views, (height, width) = form.preprocess["views"], 1, view_size(form.preprocess)
    kind = "whole" if raw is None else raw["kind"]
    if kind == "frames":
        views = whole(raw, "count", most=MOST_VIEWS)
    elif kind == "tiles":
        height, width = _sides("size", raw["size"])
        views = whole(raw, "rows", most=MOST_VIEWS) * whole(raw, "cols", most=MOST_VIEWS) + 1
    fits = views % form.views == 0 if kind == "frames" else views == form.views  # one view may be several frames
    if kind not in VIEWS[form.kind] or not fits:
        raise ValueError(f"{form.views} views of {form.kind} {form.part} do not come from {raw!r}")
    if views * height * width > LARGEST_VIEWS:
        raise ValueError(f"{views} views of {width} x {height}")


def view_size(preprocess: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of one prepared view; both the shortest edge where nothing is cropped."""
    if preprocess["crop"] is not None:
        height, width = preprocess["crop"]
        return height, width
    size = preprocess["size"]
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["height"], size["width"])


def _sides(key: str, sides: Sequence[int]) -> tuple[int, int]:
    height, width = (whole({key: side}, key, most=LARGEST_SIDE) for side in sides)
    return height, width


def whole(entry: Mapping[str, Any], key: str, least: int = 1, most: int = 2**31) -> int:
    """The whole number at a key. Raises LookupError, or ValueError if it is anything else or out of range."""
    found = entry[key]
    if type(found) is not int or not least <= found <= most:
        raise ValueError(f"{key} {found!r}")
    return found
