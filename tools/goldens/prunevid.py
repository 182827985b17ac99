"""Vectors of PruneVid: the rows of a video; its windows and the rows that are left; what the text picks of those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.scenes import contiguous, scenes
from exporter.maths.shares import Pick, sizes
from exporter.maths.windows import Split
from exporter.methods.prunevid import PruneVid
from exporter.reducer import Grid, Shape
from tools.golden import Arrays, Check
from tools.goldens.video import video_taps


def checks(case: Arrays) -> Iterator[Check]:
    """Labels of frames, windows and their counts; the rows; those that stay in the decoder."""
    tau, ratio, share = (float(case[name]) for name in ("tau", "cluster_ratio", "temporal_segment_ratio"))
    method = PruneVid("exact", tau, ratio, share)
    video = torch.from_numpy(case["frames"])
    shape = video_taps(video[None]).shape
    (stage,) = method.plan(shape, Budget("1"))
    assert stage.keep is not None
    slots, count = stage.keep, len(case["features_out"])

    def windows(video: Tensor) -> Mapping[str, Tensor]:
        clusters = int(shape.views * method.temporal_segment_ratio)
        found, merged, single = method.layout(video[None], slots, shape)
        reach = (found.reach[0] > 0).float()
        starts = reach.argmax(-1) == torch.arange(shape.views)
        return {
            "refined_frame_cluster": contiguous(scenes(video.mean(1)[None], clusters, method.k))[0],
            "window_sizes": reach.sum(-1).to(torch.int64) * starts,
            "static_sizes": merged[0],
            "dynamic_sizes": (reach @ single[0].float()).to(torch.int64) * starts,
        }

    first = case["window_sizes"].cumsum() - case["window_sizes"]
    wanted = {name: np.zeros(shape.views, dtype=np.int64) for name in ("window_sizes", "static_sizes", "dynamic_sizes")}
    for name, values in wanted.items():
        values[first] = case[name]
    yield Check("windows", windows, (video,), {"refined_frame_cluster": case["refined_frame_cluster"], **wanted})

    def rows(video: Tensor) -> Mapping[str, Tensor]:
        chosen = method.select(video_taps(video[None]), stage)
        assert chosen.indices is not None
        assert chosen.mix is not None
        made = chosen.mix[0, 0] @ video.flatten(0, 1)
        return {"features_out": made[:count], "filled": (chosen.indices >= 0).sum()[None]}

    yield Check("rows", rows, (video,), {"features_out": case["features_out"], "filled": np.array([count])})
    if "llm_kept" in case:
        yield picked(case)


def picked(case: Arrays) -> Check:
    """The text's rows stand behind those of the video, and nothing else is in the sequence."""
    alpha, windows = float(case["llm_alpha"]), case["window_sizes"].tolist()
    each = [rows // size for rows, size in zip(case["dynamic_sizes"].tolist(), windows, strict=True)]
    single = [rows for rows, size in zip(each, windows, strict=True) for _ in range(size)]
    method = PruneVid(alpha=alpha)
    groups = tuple(method.quota(size) for size in sizes(Split(windows, 0, case["static_sizes"].tolist(), single)))
    stage = Pick("decoder", 10, keep=sum(stay for _, stay in groups), groups=groups)

    def run(rows: Tensor) -> Mapping[str, Tensor]:
        heads, text, length = rows.shape
        seen = torch.zeros(1, heads, length + text, length + text)
        seen[0, :, length:, :length] = rows
        shape = Shape(length, Grid(1, length))
        taps = EagerTaps((0,), length, length + text, {10: Seen(attention=seen)}, shape)
        kept = method.select(taps, stage).indices
        assert kept is not None
        return {"llm_kept": kept[0, 0]}

    return Check("decoder", run, (torch.from_numpy(case["llm_text_to_image"]),), {"llm_kept": case["llm_kept"]})
