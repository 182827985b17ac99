"""Vectors of QuoTA: weights, sizes and resized tokens of frames for recorded scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.frame_sizes import capped, counts, grids, shares
from exporter.methods.quota import QuoTA, assign
from exporter.reducer import Grid, Shape
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Shares, tokens of each frame, grids, and all rows with and without newlines."""
    told = json.loads(str(case["config"]))
    total, version, side = told["enhance_tokens"] * told["enhance_total"], told["version"], told["side"]
    shape = Shape(side * side, Grid(side, side), views=told["frames"], video=True, has_cls=False)
    QuoTA(version=version).plan(shape, Budget(str(total)))

    def run(scores: Tensor, features: Tensor, newline: Tensor) -> Mapping[str, Tensor]:
        weights = shares(scores)
        found = {"weights_normalised": weights[0]}
        if version != "v1":
            weights = capped(weights, shape.patches / total)
            found["weights_scaled"] = weights[0]
        count = counts(weights, total)
        made = assign(count, total, shape, version)
        assert made.mix is not None
        rows = (made.mix[0, 0] @ features.flatten(0, 1))[: len(case["frames_out"])]
        found |= {"frame_tokens_int": count[0], "frames_out": rows}
        if version != "v3":
            height, width = grids(count)
            found |= _on_grids(case, rows, height, width, newline)
        return found

    names = ["weights_normalised", "weights_scaled", "frame_tokens_int", "frames_out", "grid_hw", "tokens_with_newline"]
    want = {name: case[name] for name in names if name in case and not (version == "v3" and name in names[4:])}
    inputs = (torch.from_numpy(case["scores"])[None].float(), torch.from_numpy(case["features"]))
    yield Check(version, run, (*inputs, torch.from_numpy(case["image_newline"])), _as_fp32(want))


def _on_grids(case: Arrays, rows: Tensor, height: Tensor, width: Tensor, newline: Tensor) -> dict[str, Tensor]:
    """The kept frames' grids; the rows with a newline after each of their lines, where the recorded grids put it."""
    kept = torch.from_numpy((case["frame_tokens_int"] > 0).nonzero()[0])
    every, at = list[Tensor](), 0
    for lines, wide in case["grid_hw"].tolist():
        for _ in range(lines):
            every += [rows[at : at + wide], newline[None]]
            at += wide
    return {"grid_hw": torch.stack([height[0][kept], width[0][kept]], -1), "tokens_with_newline": torch.cat(every)}


def _as_fp32(want: Arrays) -> Arrays:
    return {name: v.astype("float32") if v.dtype == "float64" else v for name, v in want.items()}
