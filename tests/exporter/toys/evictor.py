"""Two layers' caches stay at a few slots: every token adds to the scores and drives out the lowest, by key head."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage, StateSpec
from tests.exporter.toys.keyed import best, by_key_head


@dataclass(frozen=True)
class Evictor(Reducer):
    title = "toy"
    paper = "toy"
    pictures = False
    slots: int = 20
    layers = (1, 2)

    def plan(self, shape, budget):
        return self.steps(shape, budget)

    def steps(self, shape, budget):
        return tuple(Stage("decoder", layer, "kv", keep=self.slots) for layer in self.layers)

    def states(self, shape, budget):
        return tuple(StateSpec(f"score.{layer}", (shape.kv_heads, self.slots)) for layer in self.layers)

    def select(self, taps, stage):
        received = taps.column_sum(stage.layer)
        return self.best(by_key_head(received, taps.qkv(stage.layer).k.shape[1]), taps.valid, stage)

    def decode(self, taps, stage):
        before = taps.state[f"score.{stage.layer}"]
        rows = by_key_head(taps.rows(stage.layer, "last")[:, :, 0], before.shape[1])
        new = torch.ones_like(rows[..., self.slots :])
        return self.best(torch.cat([0.9 * before, new], 2) + rows, taps.valid, stage)

    def best(self, scores, valid, stage):
        kept = best(scores, valid, self.slots)
        return Selection(kept, state={f"score.{stage.layer}": scores.gather(2, kept.clamp(min=0))})


METHOD = Evictor
