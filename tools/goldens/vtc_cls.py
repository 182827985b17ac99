"""Vectors of VTC-CLS: [CLS] rows of all layers, hidden states of the last one that is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.vtc_cls import VtcCls
from exporter.reducer import Grid, Shape
from exporter.select import gather_rows
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Kept indices, scores and features."""
    layers, patches = int(case["num_layers"]), case["hidden_sel"].shape[1] - 1
    shape = Shape(patches, Grid(*case["grid"].tolist()), tower_layers=layers, tower_last=layers - 2)
    reducer = VtcCls(layer=int(case["start_layer"]))
    (stage,) = reducer.plan(shape, Budget(str(int(case["keep"]))))

    def run(rows: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        seen = {layer: Seen(attention=rows[layer][:, :, None]) for layer in range(layers)}
        taps = EagerTaps((1,), patches, patches + 1, seen, shape, batch=rows.shape[1])
        chosen = reducer.select(taps, stage)
        assert chosen.indices is not None
        assert chosen.scores is not None
        kept = chosen.indices[:, 0]
        return {"score": chosen.scores[:, 0], "kept_indices": kept, "kept_features": gather_rows(hidden[:, 1:], kept)}

    want = {name: case[name] for name in ("kept_indices", "kept_features")}
    want["score"] = case["score"].reshape(-1, patches)
    inputs = (torch.from_numpy(case["attn_cls_rows"]), torch.from_numpy(case["hidden_sel"]))
    yield Check("layers summed", run, inputs, want)
