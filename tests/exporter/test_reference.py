"""The reference's caches against Hugging Face's own, cut by hand between one forward and the next."""

from dataclasses import dataclass

import pytest
import torch
from transformers import DynamicCache

from exporter.models.llama import FAMILY
from exporter.prompting import Prompting
from exporter.reducer import Reducer, Selection, Stage
from exporter.reference import Reference
from tests.exporter.models.tiny_llama import tiny_model

KEEP, PROMPT, SAID = 6, [1, *range(20, 33)], [5, 60, 7, 61, 9]
STAGES = tuple(Stage("decoder", layer, "kv", keep=KEEP) for layer in range(4))


def best(rows):
    """The slots that one row `[H,n]` of attention likes most, for each of two key heads."""
    return rows.unflatten(0, (2, -1)).mean(1).topk(KEEP).indices.sort().values


@dataclass(frozen=True)
class Loved(Reducer):
    title = paper = "toy"

    def select(self, taps, stage):
        return Selection(best(taps.rows(stage.layer, "last")[0, :, 0])[None])

    decode = select


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def cut(cache, attentions):
    """What `best` finds of each layer's last row stays."""
    for layer, weights in zip(cache.layers, attentions, strict=True):
        kept = best(weights[0, :, -1])[None, :, :, None].expand(-1, -1, -1, layer.keys.shape[3])
        layer.keys, layer.values = layer.keys.gather(2, kept), layer.values.gather(2, kept)


@torch.no_grad()
def by_hand(model, *, every_step):
    cache = DynamicCache(config=model.config)
    read = model(torch.tensor([PROMPT]), past_key_values=cache, output_attentions=True)
    cut(cache, read.attentions)
    logits = [read.logits[0, -1]]
    for number, token in enumerate(SAID):
        place = torch.tensor([[len(PROMPT) + number]])
        read = model(torch.tensor([[token]]), past_key_values=cache, position_ids=place, output_attentions=True)
        logits.append(read.logits[0, -1])
        if every_step:
            cut(cache, read.attentions)
    return torch.stack(logits)


@pytest.mark.parametrize("steps", [(), STAGES], ids=["once", "every step"])
def test_cut_caches_are_those_of_transformers(model, steps):
    family = FAMILY(model.config, model)
    plain = Reference(family, Loved(), STAGES, prompts=(Prompting("prefill", 0, STAGES),), steps=steps)
    want = by_hand(model, every_step=bool(steps))
    got = plain.read(PROMPT, [], SAID)
    torch.testing.assert_close(got.logits, want, rtol=1e-4, atol=1e-5)
    tokens, logits = plain.generate(PROMPT, [], 4, ())
    torch.testing.assert_close(logits, plain.read(PROMPT, [], tokens).logits[:4], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got.logits, Reference(family, Loved(), ()).read(PROMPT, [], SAID).logits, atol=1e-2)
