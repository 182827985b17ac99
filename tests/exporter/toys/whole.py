"""The prompt itself is the span: half of it goes behind a layer, then more; its last token always stays."""

from dataclasses import dataclass

import torch

from exporter.masks import last_place
from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Whole(Reducer):
    title = "toy"
    paper = "toy"
    prompt = True
    pictures = False

    def plan(self, shape, budget):
        keep = budget.count(shape.tokens)
        return (Stage("decoder", 0, keep=2 * keep), Stage("decoder", 2, keep=keep))

    def select(self, taps, stage):
        scores = taps.rows(stage.layer, "last").mean((1, 2)).masked_fill(~taps.valid, -1.0)
        last = torch.arange(scores.shape[1]) == last_place(taps.valid)
        return Selection(top_k(scores + 2.0 * last, stage.keep)[:, None])


METHOD = Whole
