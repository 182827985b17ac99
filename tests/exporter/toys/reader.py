"""Ranks what comes out of the projector by its likeness to the words of the prompt."""

from dataclasses import dataclass

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Reader(Reducer):
    title = "toy"
    paper = "toy"
    needs = frozenset({"text"})

    def plan(self, shape, budget):
        return (Stage("projected", keep=budget.count(shape.tokens)),)

    def select(self, taps, stage):
        words, mask = taps.inputs["text"].float(), taps.inputs["text_mask"][..., None].float()
        mean = (words * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        scores = (taps.hidden(-1).float() * mean).sum(-1)[:, None]
        return Selection(top_k(scores, stage.keep), scores=scores)


METHOD = Reader
