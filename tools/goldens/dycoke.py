"""Vectors of DyCoke's first stage: the rows of a video and the merging ratio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.methods.dycoke import DyCoke, similarity
from exporter.select import gather_rows
from tools.golden import Arrays, Check
from tools.goldens.video import video_taps


def checks(case: Arrays) -> Iterator[Check]:
    """The similarities of both kinds of pairs, and the kept rows in the authors' order and in that of their places."""
    inputs, pairs = (torch.from_numpy(case["frames"]),), len(case["similarities"])
    ratio = float(case["merging_ratio"])

    def alike(video: Tensor) -> Mapping[str, Tensor]:
        found = similarity(video[None])[0]
        return {"similarities": found[:pairs], "odd_similarities": found[pairs:]}

    def run(video: Tensor) -> Mapping[str, Tensor]:
        kept = play(DyCoke(ratio, "similarity"), video)
        return {
            "source_indices": kept,
            "features_out": gather_rows(video.flatten(0, 1), kept),
            "sorted": play(DyCoke(ratio), video),
        }

    yield Check("similarities", alike, inputs, {name: case[name] for name in ("similarities", "odd_similarities")})
    wanted = {name: case[name] for name in ("source_indices", "features_out")}
    places = case["source_indices"].copy()
    places.sort()
    yield Check("kept", run, inputs, wanted | {"sorted": places})


def play(method: DyCoke, video: Tensor) -> Tensor:
    """What the method keeps of one video `[F,L,D]`."""
    taps = video_taps(video[None])
    stage, *_ = method.plan(taps.shape, Budget("1"))
    chosen = method.select(taps, stage).indices
    assert chosen is not None
    return chosen[0, 0]
