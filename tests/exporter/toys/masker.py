"""A key bias from an observing stage in the tower, then a cut; another bias inside the decoder."""

from dataclasses import dataclass

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Masker(Reducer):
    title = "toy"
    paper = "toy"
    strength: float = 4.0

    def plan(self, shape, budget):
        keep = budget.count(shape.patches)
        tower = (Stage("tower", 1), Stage("tower", shape.tower_last, keep=keep))
        return (*tower, Stage("decoder", 0), Stage("decoder", 1, keep=keep // 2))

    def select(self, taps, stage):
        if stage.stack == "decoder":
            hidden = taps.span_of(taps.hidden(stage.layer, "attention_out").transpose(1, 2)).transpose(2, 3)
            scores = hidden.float().norm(dim=-1)
        else:
            scores = taps.span_of(taps.column_sum(stage.layer)).mean(2)
        if stage.keep is None:
            return Selection(key_bias=-self.strength * (scores < scores.mean(-1, keepdim=True)))
        return Selection(indices=top_k(scores, stage.keep), scores=scores)


METHOD = Masker
