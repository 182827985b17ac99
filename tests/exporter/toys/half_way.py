"""Merging between attention and MLP, sizes carried and told to attention; [CLS] joins the kept tokens at the end."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


@dataclass(frozen=True)
class HalfWay(Reducer):
    title = "toy"
    paper = "toy"

    def plan(self, shape, budget):
        keep = budget.count(shape.patches)
        middle = (Stage("tower", layer, "mid", keep=3 * keep - layer * keep) for layer in range(2))
        return (*middle, Stage("tower", shape.tower_last, keep=keep - 1, cls=True))

    def select(self, taps, stage):
        if stage.at == "after":
            ahead = taps.hidden(stage.layer + 1, "attention_out")
            scores = taps.span_of(ahead.transpose(1, 2)).float().norm(dim=2)
            return Selection(top_k(scores, stage.keep), scores=scores)
        keys = taps.span_of(taps.qkv(stage.layer).k.mean(1).transpose(1, 2)).float()
        middle = taps.span_of(taps.hidden(stage.layer, "mid").transpose(1, 2)).float()
        kept = top_k(keys.norm(dim=2) + 0.1 * middle.norm(dim=2), stage.keep)
        near = (keys.transpose(2, 3) @ keys).softmax(-1)
        mix = near.gather(2, kept[..., None].expand(-1, -1, -1, near.shape[-1]))
        size = 1 + mix.sum(-1)
        before = taps.carry.get("size", torch.ones(near.shape[:3])).gather(2, kept)
        return Selection(kept, mix, tuple(range(stage.keep)), key_bias=size.log() - before.log(), carry={"size": size})


METHOD = HalfWay
