"""Two layers run on some of the tokens, which carry back what they saw there; rows are marked on the way."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class Bypass(Reducer):
    title = "toy"
    paper = "toy"
    positions = "keep"

    def plan(self, shape, budget):
        keep = budget.count(shape.tokens)
        return (
            Stage("decoder", 0),
            Stage("decoder", 1, "around", keep=keep),
            Stage("decoder", 1),
            Stage("decoder", 2, "around", keep=keep // 2),
        )

    def select(self, taps, stage):
        if stage.keep is None:
            asked = taps.span_of(taps.rows(stage.layer, "last"))[:, :, :, 0].mean(2)
            marks = {} if stage.layer else {"norm": taps.normed(taps.hidden(0)).float().abs().mean(-1)}
            return Selection(carry={"asked": asked}, marks=marks)
        cos, _ = taps.rope
        turned = taps.span_of(cos[..., 1].float() * taps.marks["norm"])
        scores = taps.carry["asked"] + 1e-3 * turned + 1e-3 * self.ahead(taps, stage.layer)
        return Selection(top_k(scores, stage.keep))

    def ahead(self, taps, layer):
        keys = taps.qkv(layer, rope=False).k.float().mean(1)
        return torch.tanh(taps.span_of(keys.transpose(1, 2)).norm(dim=2))


METHOD = Bypass
