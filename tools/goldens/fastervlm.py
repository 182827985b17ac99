"""Vectors of FasterVLM: [CLS] rows of several layers, hidden states of the selected one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.fastervlm import FasterVLM
from exporter.reducer import Grid, Shape, Stage
from exporter.select import gather_rows
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Kept indices, scores and features of every crop by itself."""
    keep, grid = int(case["keep"]), Grid(*case["grid"].tolist())

    def run(rows: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        length = rows.shape[-1]
        seen = {0: Seen(attention=rows[:, :, None])}
        taps = EagerTaps((1,), length - 1, length, seen, Shape(length - 1, grid), batch=rows.shape[0])
        chosen = FasterVLM().select(taps, Stage("tower", 0, keep=keep))
        assert chosen.indices is not None
        assert chosen.scores is not None
        kept = chosen.indices[:, 0]
        return {"kept_indices": kept, "score": chosen.scores[:, 0], "kept_features": gather_rows(hidden[:, 1:], kept)}

    rows = torch.from_numpy(case["attn_cls_rows"][int(case["select_layer"])])
    inputs = (rows, torch.from_numpy(case["hidden_sel"]))
    yield Check("per crop", run, inputs, {name: case[name] for name in ("kept_indices", "score", "kept_features")})
