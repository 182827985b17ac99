"""Vectors of FoPru: the patches' block of attention maps, as probabilities or as logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.fopru import FoPru
from exporter.reducer import QKV, Grid, Shape
from exporter.select import gather_rows
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Kept indices, significance (as multiples of 1 / N) and features of every view."""
    patches = case["scores"].shape[-1]
    shape = Shape(patches, Grid(*case["grid"].tolist()))
    reducer = FoPru(strategy=str(case["strategy"]), input=str(case["scores_kind"]))
    (stage,) = reducer.plan(shape, Budget(str(int(case["keep"]))))

    def run(scores: Tensor, features: Tensor) -> Mapping[str, Tensor]:
        taps = EagerTaps((1,), patches, patches + 1, {0: _seen(scores)}, shape, batch=scores.shape[0])
        indices = reducer.select(taps, stage).indices
        assert indices is not None
        kept = indices[:, 0]
        significance = reducer.significance(taps, 0)[:, 0] * patches
        return {"kept_indices": kept, "kept_features": gather_rows(features, kept), "significance": significance}

    want = {name: case[name] for name in ("kept_indices", "kept_features")}
    want["significance"] = case["significance"] * patches
    inputs = (torch.from_numpy(case["scores"]), torch.from_numpy(case["features"]))
    yield Check(f"{reducer.strategy}, {reducer.input}", run, inputs, want)


def _seen(block: Tensor) -> Seen:
    """A layer with this block behind a [CLS] row and column; its logits are `block @ identity`."""
    whole = pad(block, (1, 0, 1, 0))
    same = torch.eye(whole.shape[-1]).expand(whole.shape)
    return Seen(attention=whole, qkv={True: QKV(whole, same, same)})
