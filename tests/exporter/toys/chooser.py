"""Every token chooses afresh which tokens of the picture the layers behind may look at; it remembers the choices."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage, StateSpec
from exporter.select import marked, top_k


@dataclass(frozen=True)
class Chooser(Reducer):
    title = "toy"
    paper = "toy"
    positions = "keep"

    def plan(self, shape, budget):
        return (Stage("decoder", 0, keep=budget.count(shape.tokens)), Stage("decoder", 1))

    def steps(self, shape, budget):
        return (Stage("decoder", 1),)

    def states(self, shape, budget):
        return (StateSpec("seen", (shape.images, shape.tokens)),)

    def select(self, taps, stage):
        scores = taps.span_of(taps.rows(stage.layer, "last"))[:, :, :, 0].mean(2)
        if stage.keep is not None:
            return Selection(top_k(scores, stage.keep), scores=scores)
        return Selection(state={"seen": torch.zeros(*scores.shape[:2], taps.shape.tokens) + scores.sum(-1)[..., None]})

    def decode(self, taps, stage):
        there = (taps.span >= 0).float()
        scores = taps.span_of(taps.rows(stage.layer, "last"))[:, :, :, 0].mean(2)
        total = 0.5 * taps.state["seen"] + scores
        best = marked(top_k(total * there - (1 - there), 8), total.shape[-1])
        return Selection(key_bias=-6.0 * (1 - best) * there, state={"seen": total})


METHOD = Chooser
