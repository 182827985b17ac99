"""Vectors of DivPrune: projected features, the order of the picks and how far each was from the ones before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.similarity import cosines
from exporter.methods.divprune import DivPrune, farthest
from exporter.reducer import Grid, Shape
from exporter.select import gather_rows
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Order, distances at each pick, kept indices and features."""
    keep = int(case["keep"])

    def run(features: Tensor) -> Mapping[str, Tensor]:
        rows = features[None]
        shape = Shape(rows.shape[1], Grid(1, rows.shape[1]))
        taps = EagerTaps((0,), shape.tokens, shape.tokens, {-1: Seen({"out": rows})}, shape)
        reducer = DivPrune()
        kept = reducer.select(taps, reducer.plan(shape, Budget(str(keep)))[0]).indices
        assert kept is not None
        distances = 1 - cosines(rows)
        order = farthest(distances, keep)
        among = gather_rows(gather_rows(distances, order).transpose(1, 2), order)  # of each pair of picks
        later = torch.ones(keep, keep).triu()[None] * 9  # itself and what is picked after it do not count
        return {
            "selection_order": order[0],
            "kept_indices": kept[0, 0],
            "kept_features": gather_rows(rows, kept[:, 0])[0],
            "min_dist_at_pick": (among + later).amin(-1)[0, 1:],
        }

    wanted = ("selection_order", "kept_indices", "kept_features", "min_dist_at_pick")
    features = torch.from_numpy(case["features"])
    yield Check("farthest points", run, (features,), {name: case[name] for name in wanted})
