"""Merging: kept rows are replaced by weighted means of the span, and extra rows are appended."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Merger(Reducer):
    title = "toy"
    paper = "toy"

    def plan(self, shape, budget):
        keep = budget.count(shape.patches)
        return (
            Stage("tower", shape.tower_last, keep=keep, extra=3),
            Stage("projected", keep=keep),
            Stage("decoder", 0, keep=keep // 2, extra=2),
        )

    def select(self, taps, stage):
        if stage.stack == "tower":
            scores = taps.span_of(taps.rows(stage.layer, "cls"))[:, :, :, 0].mean(2)
            thirds = torch.arange(scores.shape[-1]) % 3 == torch.arange(3)[:, None]
            return Selection(indices=top_k(scores, stage.keep), mix=(scores[:, :, None] * thirds).softmax(-1))
        states = taps.span_of(taps.hidden(stage.layer).transpose(1, 2))
        scores = states.float().norm(dim=2)
        near = (states.transpose(2, 3) @ states).float().softmax(-1)
        if stage.stack == "projected":  # replaces the first two kept rows
            return Selection(top_k(scores, stage.keep), mix=near[:, :, :2], mix_rows=(0, 1))
        return Selection(top_k(scores, stage.keep), mix=near[:, :, 5:7])


METHOD = Merger
