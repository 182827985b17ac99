"""Random: the same patches of every picture, drawn once; the floor that other methods are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from exporter.budget import Budget
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps


@dataclass(frozen=True)
class Random(Reducer):
    """Keep `keep` patches drawn uniformly without replacement, in their original order.

    They are the first `keep` of numpy's `default_rng(seed).permutation(N)`, constants of the engine: the same in every
    picture and view, in every run. Budget: patches per view (picture, crop or frame).

    Attributes:
        seed: 0 or more.
    """

    title = "Random"
    paper = "no paper: a baseline"
    differences = ("drawn once when exporting, not for each picture: an engine that draws could not be checked",)

    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} is less than 0")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the last tower layer that is used."""
        return (Stage("tower", shape.tower_last, keep=budget.count(shape.patches)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """A constant."""
        drawn = np.random.default_rng(self.seed).permutation(taps.shape.patches)[: stage.keep]
        kept = torch.from_numpy(np.sort(drawn).astype(np.int64))
        return Selection(indices=kept.expand(*taps.span.shape[:2], -1))


METHOD = Random
