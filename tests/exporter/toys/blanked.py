"""Kept rows in an order of its own, then a row of zeros, then slots without a token: as many as scores say."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage


@dataclass(frozen=True)
class Blanked(Reducer):
    title = "toy"
    paper = "toy"

    def plan(self, shape, budget):
        return (Stage("tower", 2), Stage("projected", keep=budget.count(shape.tokens), blanks=True))

    def select(self, taps, stage):
        if stage.stack == "tower":
            return Selection(carry={"seen": taps.span_of(taps.rows(stage.layer, "cls"))[:, :, :, 0].mean(2)})
        scores, order = taps.carry["seen"].topk(stage.keep, sorted=True)
        full = (scores > scores.mean(-1, keepdim=True)).sum(-1, keepdim=True)
        place = torch.arange(stage.keep)
        blank = torch.where(place == full, -1, -2)
        return Selection(torch.where(place < full, order, blank))


METHOD = Blanked
