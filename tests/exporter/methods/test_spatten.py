"""SpAtten: what stays of caches between turns, and a prompt that loses tokens layer by layer."""

from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.attention import Tape
from exporter.budget import Budget
from exporter.maths.cascade import falling_line, learned_token_pruning
from exporter.methods.spatten import SpAtten
from exporter.parts.evict import CacheTaps, left
from exporter.reducer import Grid, Shape, Stage, StateSpec
from exporter.registry import method
from exporter.sequence import Sequence
from exporter.stack import Walk
from tests.exporter.methods.common import exported, golden_paths, normal, play_case
from tests.exporter.methods.small_decoder import HEADS, KEYS, WIDTH, first_layer, small_decoder
from tools.goldens.decoders import play

SHAPE = Shape(576, Grid(24, 24), decoder_layers=3, heads=HEADS, kv_heads=KEYS)


@pytest.mark.parametrize("path", golden_paths("spatten"), ids=lambda path: path.stem)
def test_golden(path):
    assert play_case(path) == ["two turns [pytorch]", "two turns [onnx]"]


HOLES = ([1] * 9 + [0] * 3 + [1] * 4, [1] * 16, [1] * 4 + [0] * 8 + [1] * 3 + [0])


def by_hand(reducer, keep, logits, valid):
    """The slots that stay for one key head of one sequence, as the authors slice them."""
    there = [slot for slot, is_valid in enumerate(valid) if is_valid]
    last = reducer.last(keep)
    middle = there[reducer.start : len(there) - last]
    best = sorted(middle, key=lambda slot: -logits[slot])[: keep - reducer.start - last]
    stay = there if len(there) <= keep else sorted({*there[: reducer.start], *best, *there[len(there) - last :]})
    return stay + [-2] * (keep - len(stay))


@pytest.mark.parametrize(
    ("reducer", "keep"),
    [
        (SpAtten(start=2, important=3, recent=9, coming=5), 9),
        (SpAtten(coming=4), 8),
        (SpAtten(start=1, recent=6, coming=6), 10),
        (SpAtten(coming=4), 40),
    ],
)
def test_ends_and_important_slots_stay(reducer, keep):
    """Slots without a token, in the middle of a batch, count for nothing."""
    valid, logits = torch.tensor(HOLES) > 0, normal(3, KEYS, 16)
    logits[~valid[:, None].expand(-1, KEYS, -1)] = 50.0
    kept = reducer.between(CacheTaps(valid, {"logits.1": logits}), Stage("decoder", 1, "kv", keep=keep)).indices
    for batch in range(3):
        for head in range(KEYS):
            assert kept[batch, head].tolist() == by_hand(reducer, keep, logits[batch, head].tolist(), HOLES[batch])


def test_ties_go_to_the_lower_slot():
    taps = CacheTaps(torch.ones(1, 12) > 0, {"logits.0": torch.zeros(1, 1, 12)})
    reducer = SpAtten(start=1, recent=2, coming=0)
    assert reducer.between(taps, Stage("decoder", 0, "kv", keep=5)).indices.tolist() == [[[0, 1, 2, 10, 11]]]


def talk(reducer, keep, turns, evicts=True):
    """Turns of a conversation, rows after rows; what was played and the states of all that came after the first."""
    decoder, first = small_decoder(), turns[0].shape[1]
    shape, budget = decoder.shape(first), Budget(keep)
    steps, cuts = reducer.steps(shape, budget), reducer.turns(shape, budget)
    played = play(decoder, reducer, reducer.plan(shape, budget), turns[0], 0, first, steps=steps)
    out = []
    for number, rows in enumerate(turns[1:]):
        out += played.run([rows], more=number > 0)
        if evicts and number + 2 < len(turns):
            played.evict(cuts)
    return played, out


TURNS = (normal(1, 11, WIDTH), normal(1, 1, WIDTH, seed=1), normal(1, 4, WIDTH, seed=2))


def test_the_logits_of_a_key_head_are_the_sum_over_its_queries():
    played, _ = talk(SpAtten(coming=2), "8", TURNS[:2])
    q, k, _ = first_layer(small_decoder(), torch.cat(TURNS[:2], 1))
    want = (q[:, -1:] @ k.repeat_interleave(HEADS // KEYS, 0).transpose(1, 2) / 2).reshape(KEYS, -1, 12).sum(1)
    torch.testing.assert_close(played.state["logits.0"][0], want)
    assert {name: tuple(value.shape) for name, value in played.state.items()} == {
        f"logits.{layer}": (1, KEYS, 12) for layer in range(3)
    }


def test_whole_caches_are_the_dense_model():
    _, dense = talk(SpAtten(coming=2), "100%", TURNS, evicts=False)
    _, roomy = talk(SpAtten(coming=2), "16", TURNS)
    _, tight = talk(SpAtten(coming=2), "6", TURNS)
    torch.testing.assert_close(roomy, dense)
    assert not torch.allclose(tight[-1], dense[-1], atol=1e-3)


def test_a_cache_keeps_its_size_and_keys_stay_unrotated():
    reducer, keep = SpAtten(coming=2), 6
    played, _ = talk(reducer, str(keep), TURNS[:2])
    before, taps = played.past[0], CacheTaps(played.slots[0], played.state)
    (key, value), slots = left(reducer, Stage("decoder", 0, "kv", keep=keep), taps, before)
    places = reducer.between(taps, Stage("decoder", 0, "kv", keep=keep)).indices
    for head in range(KEYS):
        assert torch.equal(key[0, head], before[0][0, head, places[0, head]])
        assert torch.equal(value[0, head], before[1][0, head, places[0, head]])
    assert slots.all()


def test_plans_of_a_conversation():
    reducer, budget = method("spatten"), Budget("236")
    looks = tuple(Stage("decoder", layer) for layer in range(3))
    assert reducer.plan(SHAPE, budget) == reducer.steps(SHAPE, budget) == looks
    assert reducer.turns(SHAPE, budget) == tuple(Stage("decoder", layer, "kv", keep=236) for layer in range(3))
    assert reducer.states(SHAPE, budget)[1] == StateSpec("logits.1", (KEYS, "slots"), reads=("evict",))
    whole = Budget("100%")
    assert reducer.plan(SHAPE, whole) == reducer.turns(SHAPE, whole) == reducer.states(SHAPE, whole) == ()
    assert (reducer.positions, reducer.prompt, reducer.unverified) == ("slot", False, False)


@pytest.mark.parametrize(
    ("params", "given", "kept", "last"),
    [
        ({}, 236, 236, 86),  # 150 of 300, 64 of them for what comes
        ({"start": "4", "important": "128", "recent": "128"}, 1, 196, 64),
        ({"important": "30"}, 64, 64, 34),
        ({"recent": "80"}, 64, 64, 16),
        ({}, 16, 16, 0),
    ],
)
def test_shares_of_a_budget_are_the_authors(params, given, kept, last):
    reducer = method("spatten", params)
    assert reducer.turns(SHAPE, Budget(str(given)))[0].keep == kept
    assert reducer.last(kept) == last


def test_schedules():
    assert falling_line(100, 50, 12, 0.5) == dict(
        zip(range(2, 12), [75, 69, 63, 58, 52, 47, 41, 36, 30, 25], strict=True)
    )
    assert falling_line(100, 80, 5, 0.5) == {1: 100, 2: 86, 3: 73, 4: 60}
    assert falling_line(9, 4, 2, 0.5) == {1: 4}
    assert learned_token_pruning(100, 40, 12) == dict(
        zip(range(3, 12), [93, 87, 80, 73, 67, 60, 53, 47, 40], strict=True)
    )
    assert learned_token_pruning(100, 40, 2) == {1: 40}


def cascade(decoder, reducer, keep, rows, valid, width):
    """Prompts `[B,width,C]` through the decoder: the walk."""
    stages = reducer.plan(replace(decoder.shape(width), decoder_layers=decoder.layers), Budget(keep))
    every = torch.arange(width).expand(rows.shape[:2])
    start = Sequence(rows, 0, width, every[:, None], valid=valid, positions=every, rows=every)
    walk = Walk(decoder.stack, reducer, stages, decoder.shape(width), start)
    walk.run(decoder.layers)
    return walk


def plain_cascade(decoder, rows, counts, *, sums):
    """One prompt, layer by layer on the tokens that are left: these after each layer, and the rows at the end."""
    alive, scores, every = list(range(rows.shape[1])), torch.zeros(rows.shape[1]), []
    for layer, block in enumerate(decoder.stack.blocks):
        if (count := counts.get(layer)) is not None and count < len(alive):
            order = sorted(alive[:-1], key=lambda token: -float(scores[token]))[: count - 1]
            places = [place for place, token in enumerate(alive) if token in {*order, alive[-1]}]
            rows, alive = rows[:, places], [alive[place] for place in places]
        every.append(alive)
        rope, length = decoder.rotary(rows, torch.tensor([alive])), len(alive)
        tape, mask = Tape(), torch.ones(length, length).tril().bool()
        rows = rows + block.attention(block.norm1(rows), mask, rope, tape)
        rows = rows + block.mlp(block.norm2(rows))
        logits = tape.q @ tape.k.repeat_interleave(HEADS // KEYS, 1).transpose(2, 3) * tape.scale
        received = logits.masked_fill(~mask, -torch.inf).softmax(-1).sum((0, 1, 2))
        scores = (scores if sums else torch.zeros_like(scores)).index_add(0, torch.tensor(alive), received)
    return every, rows


@pytest.mark.parametrize("schedule", ["paper", "ltp"])
def test_a_cascade_layer_by_layer_in_a_padded_batch(schedule):
    decoder, reducer, width = small_decoder(7), SpAtten("cascade", schedule=schedule), 14
    rows, lengths = normal(3, width, WIDTH), (14, 9, 3)
    walk = cascade(decoder, reducer, "6", rows, torch.arange(width) < torch.tensor(lengths)[:, None], width)
    counts = falling_line(width, 6, 7, 0.5) if schedule == "paper" else learned_token_pruning(width, 6, 7)
    assert [cached.sequence.width for cached in walk.caches] == [counts.get(layer, width) for layer in range(7)]
    for number, length in enumerate(lengths):
        every, out = plain_cascade(decoder, rows[number : number + 1, :length], counts, sums=schedule == "paper")
        for alive, cached in zip(every, walk.caches, strict=True):
            assert cached.sequence.origin[number, 0].tolist()[: len(alive)] == alive
        torch.testing.assert_close(walk.sequence.hidden[number, : len(every[-1])], out[0], rtol=1e-4, atol=1e-5)
        assert every[-1][-1] == length - 1


def test_the_graph_of_a_cascade():
    decoder, reducer, valid = small_decoder(4), SpAtten("cascade"), torch.arange(10) < torch.tensor([[10], [7]])

    def run(rows):
        walk = cascade(decoder, reducer, "50%", rows, valid, 10)
        return {"hidden": walk.sequence.hidden, "origin": walk.sequence.origin}

    assert exported(run, normal(2, 10, WIDTH))["origin"].shape == (2, 1, 2)


def test_plans_of_a_cascade():
    paper, ltp = method("spatten", {"form": "cascade"}), method("spatten", {"form": "cascade", "schedule": "ltp"})
    shape = replace(SHAPE.flat(100), decoder_layers=5)
    look = Stage("decoder", 0)
    cuts = tuple(Stage("decoder", layer, keep=keep) for layer, keep in ((1, 86), (2, 73), (3, 60)))
    assert paper.plan(shape, Budget("80%")) == (look, *cuts)
    assert ltp.plan(shape, Budget("80")) == (Stage("decoder", 2, keep=90), Stage("decoder", 3, keep=80))
    assert paper.plan(shape, Budget("100%")) == ltp.plan(shape, Budget("100")) == ()
    assert paper.picture_plan(SHAPE, Budget("50%")) == paper.turns(SHAPE, Budget("50%")) == ()
    assert (paper.positions, paper.prompt, paper.unverified) == ("keep", True, True)


@pytest.mark.parametrize(
    ("keep", "params"),
    [
        ("8", {"start": "8"}),
        ("64", {"important": "100"}),
        ("64", {"recent": "300"}),
        ("0", {}),
    ],
)
def test_a_budget_without_room_is_one_line(keep, params):
    with pytest.raises(UserError) as caught:
        method("spatten", params).turns(SHAPE, Budget(keep))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [
        {"form": "bert"},
        {"schedule": "linear"},
        {"start": "-1"},
        {"recent": "50"},
        {"spread": "1.5"},
    ],
)
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("spatten", params)
    assert "\n" not in str(caught.value)
