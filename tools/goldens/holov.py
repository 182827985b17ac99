"""Vectors of HoloV: projected features and their [CLS] attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.runs import Runs
from exporter.methods.holov import HoloV
from exporter.reducer import Grid, Shape, Stage
from exporter.sequence import Sequence, cut
from tools.golden import Arrays, Check

NAMES = ("kept_indices", "kept_per_crop", "pad_count", "kept_features")


def checks(case: Arrays) -> Iterator[Check]:
    """Indices in the order in which they come, how many of each run, how many zeros, and the rows themselves."""
    batch, tokens, _ = case["features"].shape
    reducer = HoloV(alpha=float(case["alpha"]), runs=int(case["num_crops"]))
    stage = Stage("projected", keep=int(case["keep"]), blanks=True)
    sizes = Runs(tokens, int(case["num_crops"])).sizes

    def run(features: Tensor, attention: Tensor) -> Mapping[str, Tensor]:
        carry = {"attention": attention[:, None]}
        shape = Shape(tokens, Grid(1, tokens))
        taps = EagerTaps((0,), tokens, tokens, {-1: Seen({"out": features})}, shape, carry=carry, batch=batch)
        chosen = reducer.select(taps, stage)
        assert chosen.indices is not None
        whole = Sequence(features, 0, tokens, torch.arange(tokens).expand(batch, 1, -1))
        indices, ends = chosen.indices[:, 0], sizes.cumsum(0)[:, None]
        inside = (indices[:, None] < ends) & (indices[:, None] >= ends - sizes[:, None])
        found = (indices, inside.sum(-1), (indices == -1).sum(-1), cut(whole, stage, chosen, renumber=True).hidden)
        return dict(zip(NAMES, found, strict=True))

    inputs = (torch.from_numpy(case["features"]), torch.from_numpy(case["attention"]))
    want = {name: case[name] for name in NAMES}
    assert case["crop_sizes"].tolist() == sizes.tolist()
    yield Check(str(case["variant"]), run, inputs, want)
