"""Looks at the layer about to run, before rotation, at raw logits and at chosen rows."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Peeker(Reducer):
    title = "toy"
    paper = "toy"

    def plan(self, shape, budget):
        keep = budget.count(shape.patches)
        return (Stage("tower", 1, keep=2 * keep), Stage("decoder", -1, keep=keep), Stage("decoder", 0, keep=keep // 2))

    def select(self, taps, stage):
        q, k, _ = taps.qkv(stage.layer + 1, rope=False)
        scores = taps.span_of((k * k).sum(-1).float().mean(1) + 0.1 * q.sum(-1).float().abs().mean(1))
        if stage.layer >= 0:
            place = torch.zeros(1, 2, dtype=torch.int64).expand(q.shape[0], -1) + torch.tensor([1, 2])
            raw = taps.span_of(taps.rows(stage.layer, place, logits=True))
            scores = scores + (raw.mean((2, 3)) if stage.stack == "tower" else 0)
        return Selection(indices=top_k(scores, stage.keep))


METHOD = Peeker
