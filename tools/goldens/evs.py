"""Vectors of EVS: the merged rows of a video, its table of positions, and the pruning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.methods.evs import EVS
from exporter.select import gather_rows
from tools.golden import Arrays, Check
from tools.goldens.video import video_taps


def checks(case: Arrays) -> Iterator[Check]:
    """The count from the rate, then the kept tokens, their dissimilarities and their rows of the position table."""
    views, merge = int(case["thw"][0]), int(case["spatial_merge_size"])
    rows, cols = (int(side) // merge for side in case["thw"][1:])
    method = EVS(q=float(case["q"]))

    def run(embeds: Tensor, table: Tensor) -> Mapping[str, Tensor]:
        taps = video_taps(embeds.reshape(1, views, rows * cols, -1), grid=(rows, cols))
        (stage,) = method.plan(taps.shape, Budget("1"))
        chosen = method.select(taps, stage)
        assert chosen.indices is not None
        assert chosen.scores is not None
        kept = chosen.indices[0, 0]
        mask = torch.zeros(views * rows * cols, dtype=torch.int64).scatter(0, kept, 1) > 0
        return {
            "keep": torch.tensor(stage.keep),
            "kept_indices": kept,
            "retention_mask": mask,
            "dissimilarity": chosen.scores[0, 0],
            "moved": chosen.scores[0, 0, rows * cols :],
            "kept_mrope": gather_rows(table, kept),
        }

    inputs = (torch.from_numpy(case["video_embeds"]), torch.from_numpy(case["mrope_thw_w"]))
    names = ("keep", "kept_indices", "retention_mask", "dissimilarity", "kept_mrope")
    wanted = {name: case[name] for name in names} | {"moved": case["dissimilarity"][rows * cols :]}
    yield Check("video", run, inputs, wanted)
