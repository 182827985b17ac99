"""Scores carried from the tower into the decoder, across cuts, parts and observing stages."""

from dataclasses import dataclass

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Carrier(Reducer):
    title = "toy"
    paper = "toy"
    positions = "keep"

    def plan(self, shape, budget):
        keep = budget.count(shape.patches)
        return (
            Stage("tower", shape.tower_last, keep=keep),
            Stage("decoder", 0),
            Stage("decoder", 1, keep=keep // 2),
            Stage("decoder", 2, keep=0),
        )

    def select(self, taps, stage):
        if stage.stack == "tower":
            scores = taps.span_of(taps.rows(stage.layer, "cls"))[:, :, :, 0].mean(2)
            kept = top_k(scores, stage.keep)
            return Selection(kept, carry={"seen": scores.gather(-1, kept)}, scores=scores)
        if stage.keep == 0:
            return Selection()
        asked = taps.span_of(taps.rows(stage.layer, "last"))[:, :, :, 0].mean(2)
        total = taps.carry["seen"] + asked
        if stage.keep is None:
            return Selection(carry={"seen": total}, outputs={"asked": asked})
        return Selection(top_k(total, stage.keep))


METHOD = Carrier
