"""A cut in the decoder, behind which the caches of the layers before it keep no more than what is alive."""

from dataclasses import dataclass

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Compacted(Reducer):
    title = "toy"
    paper = "toy"
    positions = "keep"

    def plan(self, shape, budget):
        keep = budget.count(shape.tokens)
        return (
            Stage("decoder", 0, keep=2 * keep),
            Stage("decoder", 2, keep=keep),
            Stage("decoder", 2, "kv", since=1),
        )

    def select(self, taps, stage):
        text = taps.outside
        behind = taps.valid.float().gather(1, text) * (text > taps.span[:, 0, -1:])
        rows = taps.span_of(taps.rows(stage.layer, text))
        scores = (rows * behind[:, None, None, :, None]).sum((2, 3))
        return Selection(top_k(scores, stage.keep), scores=scores)


METHOD = Compacted
