"""Modules that set thresholds for a picture's tokens (ATP-LLaVA): scores of attention, and margins above them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.maths.router import ACTIVATIONS, SEE, Linear, RouterFile
from exporter.reducer import Grid, Taps
from exporter.select import gather_rows

INPUTS = ("tokens", "means")
OUTSIDE = -1.0  # spatial score of what the grid leaves out: below every threshold


@dataclass(frozen=True)
class Module:
    """One pruning layer: it acts behind the 0-based `layer`; spatial sampling has stride `step` and score `spatial`."""

    layer: int
    step: int
    spatial: float
    projection: Linear
    redundancy: Linear
    place: Linear
    activation: str

    @property
    def reads(self) -> int:
        """Numbers that it is given: 2, or 2 for each token of a picture."""
        return int(self.projection.weight.shape[1])

    def thresholds(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """`[...,1]` each, of redundancy and of the spatial score, from values `[...,in]`."""
        hidden = ACTIVATIONS[self.activation](self.projection(values))
        return self.redundancy(hidden).sigmoid(), self.place(hidden).sigmoid()


def modules(file: RouterFile, tokens: int, depth: int) -> tuple[Module, ...]:
    """All modules of a file, for pictures of so many tokens in a decoder of `depth` layers.

    Raises:
        UserError: the file's layout is not the documented one.
    """
    pooled = file.declared("scores", *INPUTS) == "means"
    activation = file.declared("activation", "none", "relu")
    layers, rates, (scale, *more) = file.numbers("layers"), file.numbers("rates"), file.numbers("lambda_sample")
    file.numbers("temperature")  # of training: what stays does not depend on it
    rising = all(a < b for a, b in zip((0.0, *layers), layers, strict=False))
    if not rising or any(layer != int(layer) for layer in layers) or layers[-1] >= depth:
        raise UserError(f"router file: metadata layers is no rising list of layers from 1 to {depth - 1}; {SEE}")
    if len(rates) != len(layers) or not all(0 < rate <= 1 for rate in rates) or more:
        raise UserError(
            f"router file: metadata rates has one share up to 1 for each layer, lambda_sample is one; {SEE}"
        )
    found = list[Module]()
    for layer, rate in zip(map(int, layers), rates, strict=True):
        projection = Linear.of(file, f"atp.{layer}.score_proj", "h", 2 if pooled else 2 * tokens)
        redundancy, place = (Linear.of(file, f"atp.{layer}.head_{kind}", 1, projection.rows) for kind in "rs")
        module = Module(layer - 1, round(rate**-0.5), 1 - rate * scale, projection, redundancy, place, activation)
        found.append(module)
    file.nothing_else()
    return tuple(found)


def mutual(taps: Taps, layer: int, alive: Tensor) -> Tensor:
    """`[B,I,n]` fp32: attention of a span's tokens that are `alive` `[B,I,n]` to each, their mean and that of heads."""
    found = list[Tensor]()
    for number in range(taps.span.shape[1]):
        queries = alive[:, number, :, None]
        seen = taps.span_of(taps.rows(layer, taps.span[:, number]).mean(1))[:, number]
        found.append((seen * queries).sum(1) / queries.sum(1).clamp(min=1))
    return torch.stack(found, 1)


def margins(module: Module, scores: tuple[Tensor, Tensor], alive: Tensor, place: Tensor, grid: Grid) -> Tensor:
    """`[B,I,n]` fp32: by how much tokens pass the better one of both thresholds.

    Shapes: `scores` by the picture and by the text, `alive` 1.0 or 0.0, `place` int64 in the uncut picture, all
    `[B,I,n]`.
    """
    both = [values * alive for values in scores]
    if module.reads == 2:
        values = torch.cat([each.sum(-1, keepdim=True) for each in both], -1) / alive.sum(-1, keepdim=True).clamp(min=1)
    else:
        wide = torch.zeros(*place.shape[:2], grid.rows * grid.cols)
        values = torch.cat([wide.scatter(-1, place, each) for each in both], -1)
    redundancy, spatial = module.thresholds(values)
    inside = gather_rows(sampled(grid, module.step).expand(*place.shape[:2], -1), place)
    return torch.maximum((both[0] + both[1]) / 2 - redundancy, torch.where(inside, module.spatial, OUTSIDE) - spatial)


def sampled(grid: Grid, step: int) -> Tensor:
    """`[N]` bool: every `step`-th token of every `step`-th row."""
    rows, columns = torch.arange(grid.rows) % step == 0, torch.arange(grid.cols) % step == 0
    return (rows[:, None] & columns).flatten()
