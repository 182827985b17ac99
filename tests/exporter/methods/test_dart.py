"""DART: pivots and what resembles them least."""

import math
from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.dart import DART
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case


def grown(rows, text, keep, mask=None, **fields):
    """Form embed, `[B,keep]` in the order of growth."""
    mask = torch.ones(text.shape[:2], dtype=torch.bool) if mask is None else mask
    return DART(**fields).embed(hidden_taps(rows, inputs={"text": text, "text_mask": mask}), keep)[:, 0]


def kept(rows, text, keep):
    taps = hidden_taps(rows, inputs={"text": text, "text_mask": torch.ones(text.shape[:2], dtype=torch.bool)})
    return DART().select(taps, Stage("projected", keep=keep)).indices


def normed(states):
    """A final norm of uneven weights."""
    return states / states.square().mean(-1, keepdim=True).sqrt() * torch.linspace(0.2, 3, states.shape[-1])


def deep(states, keys, starts, width, keep, **fields):
    """Form layer over sequences with spans at `starts`."""
    seen = {1: Seen({"out": states}, qkv={True: QKV(keys, keys, keys)})}
    shape = Shape(width, Grid(1, width), images=len(starts))
    taps = EagerTaps(starts, width, states.shape[1], seen, shape, batch=states.shape[0], norm=normed)
    return DART(form="layer", **fields).select(taps, Stage("decoder", 1, keep=keep)).indices


@pytest.mark.parametrize("path", golden_paths("dart"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


def strongest(values, count):
    return values.sort(descending=True, stable=True).indices[:count].tolist()


def by_hand(rows, pivots, image, keep):
    """The pool loses what a pivot takes before the next one chooses."""
    order, pool = list(image), [i for i in range(len(rows)) if i not in image]
    for turn, pivot in enumerate(pivots):
        share = math.ceil((keep - len(order)) / (len(pivots) - turn))
        near = torch.nn.functional.cosine_similarity(rows[pool].double(), pivot[None].double())
        taken = [pool[i] for i in near.sort(stable=True).indices[:share].tolist()]
        order += taken
        pool = [i for i in pool if i not in taken]
    return order


@pytest.mark.parametrize("keep", [1, 4, 5, 12, 31, 60])
def test_embed_grows_as_published(keep):
    rows, text = normal(2, 60, 16), normal(2, 9, 16, seed=3)
    found = grown(rows, text, keep).tolist()
    for got, one, words in zip(found, rows, text, strict=True):
        image = strongest(one.abs().sum(1), min(4, keep))
        pivots = torch.cat([one[image], words[strongest(words.abs().sum(1), 4)]])
        assert got == by_hand(one, pivots, image, keep)


@pytest.mark.parametrize("keep", [4, 20])
def test_layer_takes_text_behind_the_span_and_outside_of_others(keep):
    states, keys = normal(2, 70, 16), normal(2, 2, 70, 4, seed=3)
    starts, width = (5, 35), 25
    found = deep(states, keys, starts, width, keep).tolist()
    norms = keys.abs().sum((1, 3))
    for one, strength, spans in zip(normed(states), norms, found, strict=True):
        for start, got in zip(starts, spans, strict=True):
            text = [i for i in range(start + width, 70) if not any(s <= i < s + width for s in starts)]
            image = strongest(strength[start : start + width], 4)
            words = [text[i] for i in strongest(strength[text], 4)]
            rows = one[start : start + width]
            assert got == sorted(by_hand(rows, torch.cat([rows[image], one[words]]), image, keep))


def test_the_graph_is_the_reducer():
    states, keys = normal(2, 70, 16), normal(2, 2, 70, 4, seed=3)
    assert exported(lambda *given: deep(*given, (5, 35), 25, 20), states, keys).shape == (2, 2, 20)


def test_the_order_of_the_pivots_matters():
    states, keys = normal(1, 150, 16), normal(1, 2, 150, 4, seed=3)
    one, other = (deep(states, keys, (5,), 120, 60, order=order) for order in ("strength", "cpython"))
    assert not torch.equal(one, other)


def test_the_counts_of_the_authors_divide_evenly():
    """T = 128 and 4 + 4 pivots: 4 + 8 * 16 = 132."""
    states, keys = normal(1, 700, 8), normal(1, 1, 700, 4, seed=3)
    assert deep(states, keys, (35,), 576, 132).shape == (1, 1, 132)


def test_padding_of_the_text_is_no_pivot():
    rows, text = normal(1, 40, 16), normal(1, 9, 16, seed=3)
    padded = torch.cat([text, 50 * normal(1, 3, 16, seed=4)], 1)
    mask = (torch.arange(12) < 9)[None]
    assert torch.equal(grown(rows, padded, 20, mask), grown(rows, text, 20))


@pytest.mark.parametrize("keep", [1, 3, 17, 39, 40])
def test_every_budget_keeps_that_many_in_order(keep):
    found = kept(normal(2, 40, 16), normal(2, 9, 16), keep)
    assert found.shape == (2, 1, keep)
    assert (found.diff(dim=-1) > 0).all()


def test_ties_go_to_the_lower_index():
    assert kept(torch.ones(1, 9, 4), torch.ones(1, 5, 4), 6).tolist() == [[[0, 1, 2, 3, 4, 5]]]


def test_batch_equals_one_at_a_time():
    rows, text = normal(3, 40, 16), normal(3, 9, 16)
    assert torch.equal(kept(rows, text, 17), in_turn(lambda row, words: kept(row, words, 17), rows, text))


def test_plans_and_needs_follow_the_form():
    shape = Shape(576, Grid(24, 24), decoder_layers=32, views=2)
    embed, layer = method("dart"), method("dart", {"form": "layer", "layer": "5"})
    assert embed.plan(shape, Budget("132")) == (Stage("projected", keep=132),)
    assert layer.plan(shape, Budget("132")) == (Stage("decoder", 4, keep=132),)
    assert (embed.needs, layer.needs) == ({"text"}, set())
    for layers, after in ((32, 1), (80, 2), (2, 0)):
        (stage,) = DART(form="layer").plan(replace(shape, decoder_layers=layers), Budget("132"))
        assert stage.layer == after


@pytest.mark.parametrize(
    "params",
    [
        {"form": "deep"},
        {"order": "set"},
        {"order": "cpython"},
        {"order": "cpython", "form": "layer", "pivot_image": "15"},
        {"pivot_image": "0"},
        {"pivot_text": "-1"},
        {"layer": "0"},
        {"layer": "deep"},
    ],
)
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("dart", params)
    assert "\n" not in str(caught.value)
