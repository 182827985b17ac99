"""Two cuts inside the tower: the second one ranks what the first one left."""

from dataclasses import dataclass

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class InTower(Reducer):
    title = "toy"
    paper = "toy"

    def plan(self, shape, budget):
        keep = budget.count(shape.patches)
        return (Stage("tower", 0, keep=2 * keep), Stage("tower", shape.tower_last, keep=keep))

    def select(self, taps, stage):
        scores = taps.span_of(taps.rows(stage.layer, "cls"))[:, :, :, 0].mean(2)
        return Selection(indices=top_k(scores, stage.keep), scores=scores)


METHOD = InTower
