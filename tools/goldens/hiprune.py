"""Vectors of HiPrune: some queries' rows of both maps (LLaVA), or merged tokens' sums over queries (Qwen2.5-VL)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.hiprune import HiPrune
from exporter.reducer import Grid, Shape, Stage
from exporter.select import gather_rows
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Kept indices and features (LLaVA), or kept places of the prompt (Qwen2.5-VL), as the authors' code keeps them."""
    llava = str(case["variant"]) == "llava"
    layers = int(case["num_layers"])
    last = layers + int(case["deep_layer_index"])
    grid = Grid(*case["grid"].tolist())
    shape = Shape(grid.rows * grid.cols, grid, tower_layers=layers, tower_last=last, has_cls=llava)
    first = int(case["object_layer_1based"])
    reducer = HiPrune(alpha=float(case["alpha"]), object_layer=first, mode="bit-faithful")
    keep = int(case["keep_per_crop" if llava else "budget"])
    stage = Stage("tower", last, keep=keep, blanks=True)

    def kept(objects: Tensor, deep: Tensor) -> Tensor:
        seen = {first - 1: Seen(attention=_whole(objects)), last: Seen(attention=_whole(deep))}
        length = deep.shape[-1]
        taps = EagerTaps((int(llava),), shape.patches, length, seen, shape, batch=deep.shape[0])
        indices = reducer.select(taps, stage).indices
        assert indices is not None
        return indices[:, 0]

    def crops(objects: Tensor, deep: Tensor, features: Tensor) -> Mapping[str, Tensor]:
        indices = kept(objects, deep)
        return {"kept_indices": indices, "kept_features": gather_rows(features, indices)}

    def prompt(objects: Tensor, deep: Tensor) -> Mapping[str, Tensor]:
        (indices,) = kept(objects[None, None, None], deep[None, None, None])
        return {"kept_indices": indices, "kept_count": (indices >= 0).sum()}

    if llava:
        names = ("attn_object", "attn_deep", "features")
        want = {name: case[name] for name in ("kept_indices", "kept_features")}
        yield Check("per crop", crops, [torch.from_numpy(case[name]) for name in names], want)
        return
    blanks = (0, keep - int(case["kept_count"]))
    want = {
        "kept_indices": np.pad(case["kept_indices"], blanks, constant_values=-2),
        "kept_count": case["kept_count"],
    }
    inputs = [torch.from_numpy(case[name]) for name in ("score_object", "score_deep")]
    yield Check("merged tokens, then blanks", prompt, inputs, want)


def _whole(rows: Tensor) -> Tensor:
    """A map of all queries with these in front, scaled so that its sum is that of all; one row is a sum already."""
    length, some = rows.shape[-1], rows.shape[-2]
    return pad(rows * (length / some if some > 1 else 1.0), (0, 0, 0, length - some))
