"""No pruning: the dense model, as the baseline and the fallback."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.budget import Budget
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps


@dataclass(frozen=True)
class Dense(Reducer):
    """Keep every patch; the budget is not asked for."""

    title = "Dense"
    paper = "no pruning: the baseline"
    pictures = False

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:  # noqa: ARG002 - the contract's signature
        """No stage at all."""
        return ()

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Never called: there is no stage."""
        raise AssertionError(f"dense has no stage, got {stage} with {taps.shape}")


METHOD = Dense
