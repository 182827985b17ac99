"""Vectors of VidCom2: the rows of a video and the rates; vLLM's choice from them and the official one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.slots import EMPTY
from exporter.methods.vidcom2 import VidCom2, calm_channels, counts, scales, typical
from exporter.select import gather_rows
from tools.golden import Arrays, Check
from tools.goldens.video import video_taps


def checks(case: Arrays) -> Iterator[Check]:
    """Scores and frame counts; the official choice, in slots; vLLM's choice, of an exact count."""
    inputs, rate = (torch.from_numpy(case["frames"]),), float(case["base_scale"])

    def weigh(video: Tensor) -> Mapping[str, Tensor]:
        near_video, near_frame = (near[0] for near in typical(video[None]))
        return {
            "channels": calm_channels(video[None])[0],
            "video_score": near_video,
            "frame_score": near_frame,
            "scales": scales(near_video[None], rate)[0],
            "keep_per_frame": counts(near_video[None], rate)[0].to(torch.int64),
        }

    names = ("channels", "video_score", "frame_score", "scales", "keep_per_frame")
    yield Check("scores", weigh, inputs, {name: case[name] for name in names})

    def official(video: Tensor) -> Mapping[str, Tensor]:
        slots = kept(VidCom2("official", rate), video)
        return {"slots": slots, "features_out": gather_rows(video.flatten(0, 1), slots[: len(found)])}

    found, views = case["kept_indices"], len(case["frames"])
    slots = int(rate * case["frames"][..., 0].size) + views
    filled = np.pad(found, (0, slots - len(found)), constant_values=EMPTY)
    yield Check("official", official, inputs, {"slots": filled, "features_out": case["features_out"]})
    base = 1 - float(case["vllm_q"])
    yield Check(
        "vllm",
        lambda video: {"kept_indices": kept(VidCom2(r_ratio=base), video)},
        inputs,
        {"kept_indices": case["vllm_kept_indices"]},
    )


def kept(method: VidCom2, video: Tensor) -> Tensor:
    """What the method keeps of one video `[F,L,C]`."""
    taps = video_taps(video[None])
    (stage,) = method.plan(taps.shape, Budget("1"))
    chosen = method.select(taps, stage).indices
    assert chosen is not None
    return chosen[0, 0]
