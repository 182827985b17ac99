"""Vectors of HoliTom: the rows of a video and their attention; windows and rows of both; the decoder's merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.frames import cosine
from exporter.maths.slots import packed
from exporter.methods.holitom import HoliTom
from exporter.reducer import Grid, Selection, Shape, Stage
from exporter.select import gather_rows
from exporter.sequence import Sequence, cut
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
    newline, count = torch.from_numpy(case["newline"]), len(case["features_out"])

    def windows(video: Tensor) -> Mapping[str, Tensor]:
        assert stage.keep is not None
        found, merged, single = method.layout(video[None], stage.keep, shape)
        reach = (found.reach[0] > 0).float()
        starts = reach.argmax(-1) == torch.arange(shape.views)
        still = found.still[0].sum(-1)
        left = found.moving[0].sum() + still.sum()
        return {
            "feature_sim": cosine(video[1:], video[:-1]),
            "sizes": reach.sum(-1).to(torch.int64) * starts,
            "still": still,
            "total_reduced": (shape.tokens - left).float(),
            "adjusted_ratio": (float(case["retain_ratio"]) * shape.tokens / left).clamp(max=1),
            "tokens": (merged[0] + (reach @ single[0].float()).to(torch.int64)) * starts,
        }

    def rows(video: Tensor, attention: Tensor) -> Mapping[str, Tensor]:
        taps = video_taps(video[None], carry={"attention": attention.flatten()[None, None]})
        chosen = method.select(taps, stage)
        made, there = with_newlines(chosen, video, newline) if len(newline) else bare(chosen, video)
        return {"features_out": gather_rows(made, packed(there, count)), "count": there.sum()[None]}

    yield Check("windows", windows, (video,), spread(case, shape.views))
    wanted = {"features_out": case["features_out"], "count": np.array([count])}
    yield Check("rows", rows, (video, attention), wanted)
    yield inner(case)


def spread(case: Arrays, views: int) -> Arrays:
    """What the case says of windows, at the first frame of each; rows of windows only where no newlines are added."""
    first, last = case["windows"].T
    names = {"sizes": last - first + 1, "still": case["static_positions_per_window"]}
    if not len(case["newline"]):
        names["tokens"] = case["tokens_per_window"]
    wanted = {name: np.zeros(views, dtype=np.int64) for name in names}
    for name, values in names.items():
        wanted[name][first] = values
    floats = ("feature_sim", "total_reduced", "adjusted_ratio")
    return {**wanted, **{name: case[name].astype(np.float32) for name in floats}}


def bare(chosen: Selection, video: Tensor) -> tuple[Tensor, Tensor]:
    """All slots' rows `[K,D]`, and whether each is filled."""
    assert chosen.indices is not None
    assert chosen.mix is not None
    return chosen.mix[0, 0] @ video.flatten(0, 1), chosen.indices[0, 0] >= 0


def with_newlines(chosen: Selection, video: Tensor, newline: Tensor) -> tuple[Tensor, Tensor]:
    """Rows by their places, and a newline behind every row of a frame's grid that has any; which of them are there."""
    assert chosen.indices is not None
    views, length = video.shape[:2]
    side = round(length**0.5)
    stands = (chosen.indices[0, 0] == torch.arange(views * length)[:, None]).float()  # [F*L,K]
    grid = (stands @ bare(chosen, video)[0]).reshape(views * side, side, -1)
    there = stands.sum(-1).reshape(views * side, side) > 0
    rows = torch.cat([grid, newline.expand(len(grid), 1, -1)], 1)
    return rows.flatten(0, 1), torch.cat([there, there.any(-1, keepdim=True)], 1).flatten()


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
