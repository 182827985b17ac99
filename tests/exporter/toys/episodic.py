"""Remembers over an episode which tokens were asked for; its first request only looks."""

from dataclasses import dataclass

from exporter.reducer import Reducer, Selection, Stage, StateSpec
from exporter.select import top_k


@dataclass(frozen=True)
class Episodic(Reducer):
    title = "toy"
    paper = "toy"
    warm_up = 1

    def plan(self, shape, budget):
        return (Stage("decoder", 0), Stage("decoder", 1, keep=budget.count(shape.tokens)))

    def states(self, shape, budget):
        return (StateSpec("asked", (shape.tokens,), initial=0.5, reset="episode", reads=("prefill",)),)

    def select(self, taps, stage):
        asked = taps.span_of(taps.rows(stage.layer, "last"))[:, :, :, 0].mean(2)
        before = taps.state["asked"][:, None]
        if stage.layer == 0:
            return Selection(state={"asked": 0.8 * before[:, 0] + 0.2 * asked.sum(1)}, carry={"seen": asked})
        scores = taps.carry["seen"] + asked * before
        return Selection(top_k(scores, stage.keep), scores=scores)


METHOD = Episodic
