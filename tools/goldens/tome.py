"""Vectors of ToMe: one merge, with sizes and without, and the schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.tome import ToMe, schedule
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.sequence import Sequence, cut
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """The merged rows, put into the order of the patches, which the reducer keeps; and the schedules."""
    order = _places(case["source"]).argsort(-1)
    schedules = {name: value for name, value in case.items() if name.startswith("r_schedule")}
    first, r = int(case["class_token"]), int(case["r"])

    def run(x: Tensor, metric: Tensor, size: Tensor) -> Mapping[str, Tensor]:
        lines = {name: schedule(len(line), (r,), _slope(name)) for name, line in schedules.items()}
        return merge(x, metric, size, first, r) | {name: torch.tensor(line) for name, line in lines.items()}

    for end, sized in (("_unit", False), ("", True)):
        size = case["size_in"] if sized else np.ones_like(case["size_in"])
        want = {name: _sorted(case[f"{name}{end}"], order) for name in ("x_out", "size_out")}
        want |= {"grown": np.log(want["size_out"]), "source": _sorted(case["source"], order)}
        inputs = tuple(torch.from_numpy(array) for array in (case["x"], case["metric"], size))
        yield Check(f"merge{end}", run, inputs, want | schedules)


def merge(x: Tensor, metric: Tensor, size: Tensor, first: int, r: int) -> dict[str, Tensor]:
    """One stage on rows `[B,T,C]`; `first` is 1 with a class token in front."""
    batch, length, _ = x.shape
    width = length - first
    k = metric[:, None]
    sizes = size[:, None, first:, 0]
    shape = Shape(width, Grid(1, width), has_cls=bool(first))
    seen = {0: Seen(qkv={True: QKV(k, k, k)})}
    taps = EagerTaps((first,), width, length, seen, shape, carry={"size": sizes}, batch=batch)
    stage = Stage("tower", 0, "mid", keep=width - min(r, width // 2))
    chosen = ToMe().select(taps, stage)
    assert chosen.mix is not None
    origin = torch.arange(width).expand(batch, 1, -1)
    before = Sequence(x, first, width, origin, bias=size[..., 0].log(), carry={"size": sizes})
    after = cut(before, stage, chosen, renumber=False)
    assert after.bias is not None
    front = torch.eye(length)[:first].expand(batch, -1, -1)
    source = torch.nn.functional.pad((chosen.mix[:, 0] > 0).float(), (first, 0))
    return {
        "x_out": after.hidden,
        "size_out": torch.cat([size[:, :first], after.carry["size"].transpose(1, 2)], 1),
        "grown": after.bias[..., None],
        "source": torch.cat([front, source], 1),
    }


def _places(source: NDArray[Any]) -> NDArray[Any]:
    """Where each merged row stands: in the odd place of those that made it, or in its only one."""
    places = np.arange(source.shape[-1])
    return np.asarray((np.where(source > 0, places + source.shape[-1] * (places % 2), -1)).max(-1) % source.shape[-1])


def _sorted(values: NDArray[Any], order: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.take_along_axis(values, order[..., None], 1), dtype=np.float32)


def _slope(name: str) -> float:
    return -1.0 if "decreasing" in name else 0.0
