"""Vectors of LexRank: features, their similarities, and the stationary scores with and without a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.lexrank import LexRank, similarity
from exporter.reducer import Grid, Shape, Stage
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Scores of all tokens; those of each connected component are rescaled to the component's size."""
    edges = case["similarity"]
    components = case["component_id_threshold"]
    threshold = float(case["threshold"])
    plain = ("scores_threshold", "scores_threshold_plain_power")
    yield _check("weights", LexRank(), case, _components(edges > 0), ("scores_continuous",))
    yield _check("threshold", LexRank(threshold=threshold), case, components, plain)


def _check(what: str, method: LexRank, case: Arrays, components: NDArray[Any], names: tuple[str, ...]) -> Check:
    member = torch.from_numpy((components[:, None] == components).astype(np.float32))

    def run(features: Tensor) -> Mapping[str, Tensor]:
        length = len(features)
        seen = {-1: Seen({"out": features[None]})}
        taps = EagerTaps((0,), length, length, seen, Shape(length, Grid(1, length)))
        scores = method.select(taps, Stage("projected", keep=1)).scores
        assert scores is not None
        scaled = scores[0, 0] * member.sum(1) / (member @ scores[0, 0])
        return {"similarity": similarity(features), **dict.fromkeys(names, scaled)}

    want = {name: case[name].astype(np.float32) for name in ("similarity", *names)}
    return Check(what, run, (torch.from_numpy(case["features"]).float(),), want)


def _components(edges: NDArray[Any]) -> NDArray[Any]:
    """The lowest token that each one is connected with."""
    reach = edges.astype(bool)
    for _ in range(len(edges).bit_length()):
        reach = (reach.astype(np.int64) @ reach) > 0
    return np.asarray(reach.argmax(1))
