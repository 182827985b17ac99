"""Caches of two layers cut alone, by key head, from the whole prompt; the fewer tokens the more empty slots."""

from dataclasses import dataclass

import torch

from exporter.reducer import Reducer, Selection, Stage
from exporter.select import ranked


@dataclass(frozen=True)
class Keyed(Reducer):
    title = "toy"
    paper = "toy"
    pictures = False

    def plan(self, shape, budget):
        return tuple(Stage("decoder", layer, "kv", keep=24) for layer in (1, 2))

    def select(self, taps, stage):
        scores = by_key_head(taps.rows(stage.layer, "last")[:, :, 0], taps.qkv(stage.layer).k.shape[1])
        scores = scores + 1e-3 * taps.hidden(stage.layer)[..., 0].float().abs()[:, None]
        return Selection(best(scores, taps.valid, stage.keep))


def by_key_head(rows, heads):
    """`[B,H,n]` as the mean of each key head's queries `[B,Hkv,n]`."""
    return rows.reshape(rows.shape[0], heads, -1, rows.shape[2]).mean(2)


def best(scores, valid, keep):
    """Where the largest of `[B,Hkv,n]` are, those that hold nothing last and named so; n may be less than keep."""
    padded = torch.nn.functional.pad(scores.masked_fill(~valid[:, None], -1.0), (0, keep), value=-1.0)
    count = valid.to(torch.int64).sum(1)[:, None, None]
    return torch.where(torch.arange(keep) < count, ranked(padded, keep), -2)


METHOD = Keyed
