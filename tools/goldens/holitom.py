"""Vectors of HoliTom: the rows of a video and their attention; windows and rows of both; the decoder's merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.frames import cosine
from exporter.methods.holitom import HoliTom
from exporter.reducer import Grid, Selection, Shape, Stage
from exporter.select import gather_rows
from exporter.sequence import Sequence, cut
from exporter.slots import packed
from tools.golden import Arrays, Check
from tools.goldens.video import video_taps


def checks(case: Arrays) -> Iterator[Check]:
    """Windows; the rows that are left of the video; the merge in the decoder."""
    if float(case["D"]):
        raise ValueError("moving tokens cannot be merged (D)")
    method = HoliTom(
        mode="exact",
        retain_ratio=float(case["retain_ratio"]),
        tau=float(case["tau"]),
        beta=float(case["beta"]),
        k=int(case["K"]),
    )
    video, attention = (torch.from_numpy(case[name]) for name in ("frames", "frame_attn"))
    shape = video_taps(video[None]).shape
    *_, stage = method.plan(shape, Budget("1"))
    assert stage.keep is not None
    keep = stage.keep

    def windows(video: Tensor) -> Mapping[str, Tensor]:
        found, merged, single = method.layout(video[None], keep, shape)
        still, moving = found.still[0].sum(-1), found.moving[0].sum(-1)
        left = moving.sum() + still.sum()
        reach = (found.reach[0] > 0).float()
        starts = reach.argmax(-1) == torch.arange(shape.views)
        each = (reach @ single[0].float()).to(torch.int64)
        return {
            "feature_sim": cosine(video[1:], video[:-1]),
            "sizes": reach.sum(-1).to(torch.int64) * starts,
            "total_reduced": (shape.tokens - left).float(),
            "adjusted_ratio": (method.retain_ratio * shape.tokens / left).clamp(max=1),
            "tokens": (merged[0] + each) * starts,
            "still": still * starts,
        }

    yield Check("windows", windows, (video,), _by_head(case, shape))

    def rows(video: Tensor, attention: Tensor) -> Mapping[str, Tensor]:
        taps = video_taps(video[None], carry={"attention": attention.flatten()[None, None]})
        chosen = method.select(taps, stage)
        assert chosen.indices is not None
        filled = (chosen.indices >= 0).sum()[None]
        return {"features_out": _made(chosen, video, torch.from_numpy(case["newline"]), filled_of(case)), "n": filled}

    def filled_of(case: Arrays) -> int:
        return len(case["features_out"])

    wanted = {"features_out": case["features_out"], "n": np.array([case["tokens_per_window"].sum()])}
    yield Check("rows", rows, (video, attention), wanted)
    if "inner_hidden" in case:
        yield inner(case)


def _by_head(case: Arrays, shape: Shape) -> Arrays:
    """What the case says of windows, at the first frame of each."""
    first, last = case["windows"].T

    def at(values: object) -> object:
        spread = np.zeros(shape.views, dtype=np.int64)
        spread[first] = values
        return spread

    return {
        "feature_sim": case["feature_sim"],
        "sizes": at(last - first + 1),
        "total_reduced": np.float32(case["total_reduced"]),
        "adjusted_ratio": np.float32(case["adjusted_ratio"]),
        "tokens": at(case["tokens_per_window"]),
        "still": at(case["static_positions_per_window"]),
    }


def _made(chosen: Selection, video: Tensor, newline: Tensor, count: int) -> Tensor:
    """The first `count` rows; with a newline: by their places, and it behind every row of the grid that has any."""
    assert chosen.indices is not None
    assert chosen.mix is not None
    rows = chosen.mix[0, 0] @ video.flatten(0, 1)
    if not len(newline):
        return rows[:count]
    views, length = video.shape[:2]
    side = round(length**0.5)
    stands = (chosen.indices[0, 0] == torch.arange(views * length)[:, None]).float()  # [F*L,K]
    grid = (stands @ rows).reshape(views * side, side, -1)
    there = stands.sum(-1).reshape(views * side, side) > 0
    grid = torch.cat([grid, newline.expand(len(grid), 1, -1)], 1).flatten(0, 1)
    there = torch.cat([there, there.any(-1, keepdim=True)], 1).flatten()
    return gather_rows(grid, packed(there, count))


def inner(case: Arrays) -> Check:
    """The stage in the decoder, on the attention of the last query."""
    start, width, length = int(case["inner_start"]), int(case["inner_len"]), len(case["inner_row"])
    stage = Stage("decoder", 17, keep=round(width * (1 - float(case["inner_r"]))))

    def run(hidden: Tensor, row: Tensor) -> Mapping[str, Tensor]:
        seen = {17: Seen({"out": hidden[None]}, attention=row.expand(1, 1, length, -1))}
        taps = EagerTaps((start,), width, length, seen, Shape(width, Grid(1, width)))
        chosen = HoliTom(inner=True).select(taps, stage)
        assert chosen.indices is not None
        places = torch.arange(length)[None]
        before = Sequence(hidden[None], start, width, torch.arange(width)[None, None], positions=places)
        kept = [places[0, :start], chosen.indices[0, 0] + start, places[0, start + width :]]
        return {"inner_kept": torch.cat(kept), "inner_hidden_out": cut(before, stage, chosen, renumber=False).hidden[0]}

    names = ("inner_kept", "inner_hidden_out")
    inputs = (torch.from_numpy(case["inner_hidden"]), torch.from_numpy(case["inner_row"]))
    return Check("decoder", run, inputs, {name: case[name] for name in names})
