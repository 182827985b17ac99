"""Vectors of VisPruner: the [CLS] row and the hidden states of the selected layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.vispruner import STEP, VisPruner
from exporter.reducer import Grid, Shape, Stage
from exporter.select import gather_rows
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Kept indices and features of every crop by itself."""
    if int(case["prune_step"]) != STEP:
        raise ValueError(f"a round drops {STEP} patches, not {int(case['prune_step'])}")
    reducer = VisPruner(important_ratio=float(case["important_ratio"]))
    keep = int(case["keep"])

    def run(row: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        length = row.shape[-1]
        seen = {0: Seen({"out": hidden}, row[:, :, None])}
        taps = EagerTaps((1,), length - 1, length, seen, Shape(length - 1, Grid(1, length - 1)), batch=row.shape[0])
        chosen = reducer.select(taps, Stage("tower", 0, keep=keep)).indices
        assert chosen is not None
        return {"kept_indices": chosen[:, 0], "kept_features": gather_rows(hidden[:, 1:], chosen[:, 0])}

    arrays = (torch.from_numpy(case["attn_cls_row"]), torch.from_numpy(case["hidden_sel"]))
    yield Check("per crop", run, arrays, {name: case[name] for name in ("kept_indices", "kept_features")})
