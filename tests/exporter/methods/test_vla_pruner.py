"""VLA-Pruner: what past actions and this prompt attend to, and the state that carries it from request to request."""

import pytest
import torch

from engines.errors import UserError
from exporter.attention import Tape
from exporter.budget import Budget
from exporter.maths.memory import guide, remembered, unlike
from exporter.methods.vla_pruner import VLAPruner
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from exporter.sequence import Sequence
from exporter.stack import Walk
from exporter.steps import SlotTaps
from tests.exporter.methods.common import attention, exported, golden_paths, in_turn, normal, play_case, uniform
from tests.exporter.methods.padded_prompts import DECODER, LAYERS
from tests.exporter.methods.plain_decoder import causal
from tests.exporter.methods.small_decoder import HEADS, KEYS, WIDTH
from tools.goldens.decoders import play

START, TOKENS, KEEP, WINDOW = 2, 12, 5, 2
CUT, WATCHED = 1, 3  # behind these layers
SHAPE = Shape(256, Grid(16, 16), decoder_layers=32)


@pytest.mark.parametrize("path", golden_paths("vla-pruner"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


def reducer(**fields):
    return VLAPruner(fastv_k=CUT + 1, history_layer=WATCHED, temporal_w=WINDOW, **fields)


def walked(made, keep, hidden, lengths, starts, state):
    """Prompts `[B,S,C]` of these lengths through all layers."""
    every = torch.arange(hidden.shape[1]).expand(hidden.shape[:2])
    origin = torch.arange(TOKENS).expand(len(hidden), 1, -1)
    valid = every < lengths[:, None]
    sequence = Sequence(hidden, starts[:, None], TOKENS, origin, valid, every, rows=every)
    walk = Walk(DECODER.stack, made, made.stages(DECODER.shape(TOKENS), keep), DECODER.shape(TOKENS), sequence)
    walk.state = state
    walk.run(LAYERS)
    return walk


def state_of(batch, rows=1.0, seed=0):
    """A full history, and an entry to come of so many rows."""
    history = attention(batch, WINDOW, TOKENS, seed=seed)
    attended = rows * attention(batch, TOKENS, seed=seed + 1)
    return {"history": history, "attended": attended, "rows": torch.full((batch, 1), rows)}


def by_hand(hidden, state, selection="prefill_mean", start=START, keep=KEEP):
    """One prompt: which tokens stay, the history that chose them, and the entry to come."""
    history = state["history"][0]
    if float(state["rows"]) > 0:
        history = torch.cat([history[1:], state["attended"] / state["rows"]])
    x, places = hidden, torch.arange(hidden.shape[1])
    for layer in range(CUT + 1):
        done = causal(DECODER, layer, x, places)
        x = done.hidden
    seen = done.attention.mean(0)
    rows = {"prefill_mean": seen, "last_token": seen[-1:], "text": seen[start + TOKENS :]}[selection]
    now = rows.mean(0)[start : start + TOKENS]
    past = sum(0.8 ** (WINDOW - 1 - i) * history[-1 - i] for i in range(WINDOW))
    past = (past / past.sum()).bfloat16().float()
    union = sorted({n for each in (past, now) for n in each.sort(descending=True, stable=True).indices[:keep].tolist()})
    embeds = hidden[0, start : start + TOKENS][union].double()
    apart = 1 - torch.nn.functional.cosine_similarity(embeds[:, None], embeds[None], dim=-1)
    chosen = [int((apart + 9 * torch.eye(len(union))).amin(0).argmax())]
    while len(chosen) < keep:
        nearest = apart[chosen].amin(0)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    kept = sorted(union[n] for n in chosen)
    stay = torch.tensor([p for p in places.tolist() if not start <= p < start + TOKENS or p - start in kept])
    x = x[:, stay]
    for layer in range(CUT + 1, WATCHED + 1):
        done = causal(DECODER, layer, x, stay)
        x = done.hidden
    entry = torch.zeros(TOKENS)
    entry[kept] = done.attention.mean(0)[-1, start : start + keep]
    return kept, history, entry


@pytest.mark.parametrize("rows", [0.0, 1.0, 7.0])
@pytest.mark.parametrize("selection", ["prefill_mean", "last_token", "text"])
def test_the_union_is_thinned_out(selection, rows):
    hidden, state = normal(1, 20, WIDTH), state_of(1, rows)
    made = reducer(selection=selection)
    walk = walked(made, KEEP, hidden, torch.tensor([20]), torch.tensor([START]), state)
    kept, history, entry = by_hand(hidden, state, selection)
    assert walk.sequence.origin[0, 0].tolist() == kept
    assert walk.sequence.positions[0].tolist() == [p for p in range(20) if not 2 <= p < 14 or p - 2 in kept]
    torch.testing.assert_close(walk.following["history"][0], history)
    torch.testing.assert_close(walk.following["attended"][0], entry)
    assert walk.following["rows"].tolist() == [[1.0]]


def test_every_prompt_of_a_batch_is_as_alone():
    hidden, lengths, starts = normal(3, 22, WIDTH), torch.tensor([20, 22, 17]), torch.tensor([2, 6, 1])
    state = state_of(3)
    walk = walked(reducer(), KEEP, hidden, lengths, starts, state)
    for n in range(3):
        one = {name: values[n : n + 1] for name, values in state.items()}
        kept, _, entry = by_hand(hidden[n : n + 1, : lengths[n]], one, start=int(starts[n]))
        assert walk.sequence.origin[n, 0].tolist() == kept
        torch.testing.assert_close(walk.following["attended"][n], entry)


def test_the_graph_is_the_walk():
    hidden, lengths, starts = normal(3, 22, WIDTH), torch.tensor([20, 22, 17]), torch.tensor([2, 6, 1])
    state = state_of(3)

    def run(hidden, lengths, starts, *values):
        walk = walked(reducer(), KEEP, hidden, lengths, starts, dict(zip(state, values, strict=True)))
        return {"hidden": walk.sequence.hidden, "kept": walk.sequence.origin, **walk.following}

    assert exported(run, hidden, lengths, starts, *state.values())["kept"].shape == (3, 1, KEEP)


def test_an_episode_fills_its_history_and_uses_it():
    """Each request's entry is the mean over the prompt's last row and the generated ones; nothing goes while warm."""
    made, shape = reducer(), DECODER.shape(TOKENS)
    state = {"history": torch.zeros(1, WINDOW, TOKENS), "attended": torch.zeros(1, TOKENS), "rows": torch.zeros(1, 1)}
    entries = []
    for request in range(made.warm_up + 2):
        hidden, new = normal(1, 20, WIDTH, seed=request), normal(3, 1, 1, WIDTH, seed=50 + request)
        stages = made.stages(shape, TOKENS if request < made.warm_up else KEEP)
        played = play(DECODER, made, stages, hidden, START, TOKENS, steps=stages[1:], state=state)
        if request >= made.warm_up:
            torch.testing.assert_close(played.state["history"][0], torch.stack(entries[-WINDOW:]))
            assert played.walk.sequence.origin[0, 0].tolist() == by_hand(hidden, state)[0]
        played.run(list(new))
        state = played.state
        assert float(state["rows"]) == 4
        entries.append(state["attended"][0] / 4)
        there = played.walk.sequence.origin[0, 0]
        assert set(entries[-1].nonzero().flatten().tolist()) == set(there.tolist())


def test_steps_add_what_new_rows_see():
    made, hidden, new = reducer(), normal(1, 20, WIDTH), normal(1, 2, WIDTH, seed=5)
    stages = made.stages(DECODER.shape(TOKENS), TOKENS)
    played = play(DECODER, made, stages, hidden, START, TOKENS, steps=stages[1:], state=state_of(1))
    before = played.state["attended"]
    played.run([new])
    x, rows = torch.cat([hidden, new], 1), torch.zeros(TOKENS)
    for layer in range(WATCHED + 1):
        done = causal(DECODER, layer, x, torch.arange(22))
        x = done.hidden
    rows = done.attention.mean(0)[20:, START : START + TOKENS].sum(0)
    torch.testing.assert_close(played.state["attended"][0] - before[0], rows)
    assert played.state["rows"].tolist() == [[3.0]]


def test_new_rows_that_are_padding_add_nothing():
    """Of two sequences the first has one new row of two, the second none; what the others hold does not matter."""
    valid = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]) > 0
    seen, state = attention(2, HEADS, 2, 5), state_of(2)
    q, kv = torch.zeros(2, HEADS, 2, 4), torch.zeros(2, KEYS, 5, 4)
    span = torch.tensor([[[0, 2, -1]], [[1, 0, -1]]])
    state["attended"] = state["attended"][:, :3]
    mask = torch.where(seen > 0, seen.log(), -torch.inf)
    taps = SlotTaps(valid, mask, {WATCHED: Tape(q=q, k=kv, v=kv, scale=1.0)}, span, SHAPE, state)
    found = reducer().decode(taps, Stage("decoder", WATCHED)).state
    first = seen[0].mean(0)[0]
    added = torch.stack([torch.stack([first[0], first[2], torch.tensor(0.0)]), torch.zeros(3)])
    torch.testing.assert_close(found["attended"], state["attended"] + added)
    assert found["rows"].tolist() == [[2.0], [1.0]]


def test_the_history_shifts_only_when_there_is_something_new():
    history, attended = uniform(2, 3, 4), uniform(2, 4, seed=1)
    rows = torch.tensor([[0.0], [2.0]])
    found = remembered(history, attended, rows)
    assert torch.equal(found[0], history[0])
    assert torch.equal(found[1], torch.stack([history[1, 1], history[1, 2], attended[1] / 2]))


def test_the_oldest_entry_counts_most():
    history = torch.eye(3)[None]
    torch.testing.assert_close(guide(history, 0.5)[0], torch.tensor([1.0, 0.5, 0.25]) / 1.75)
    assert guide(torch.zeros(1, 3, 4), 0.8).tolist() == [[0.0] * 4]


def test_candidates_alone_are_chosen_each_once():
    """Three equal rows, one of which is no candidate; ties go to the lower index."""
    rows = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0], [0, 1.0]])
    among = torch.tensor([True, False, True, True])
    assert unlike(rows, among, 1).tolist() == [3]
    assert unlike(rows, among, 2).tolist() == [0, 3]
    assert unlike(rows, among, 3).tolist() == [0, 2, 3]
    one = torch.tensor([False, True, False, False])
    assert unlike(rows, one, 1).tolist() == [1]


def test_a_batch_of_choices_is_one_by_one():
    rows, among = normal(3, 10, 4), uniform(3, 10) > 0.3
    assert torch.equal(unlike(rows, among, 4), in_turn(lambda r, a: unlike(r, a, 4), rows, among))


def test_plans_are_the_authors_at_their_depth():
    made = VLAPruner()
    assert made.plan(SHAPE, Budget("128")) == (Stage("decoder", 2, keep=128), Stage("decoder", 15))
    assert made.steps(SHAPE, Budget("25%")) == (Stage("decoder", 15),)
    assert [(state.name, state.shape, state.reset) for state in made.states(SHAPE, Budget("64"))] == [
        ("history", (3, 256), "episode"),
        ("attended", (256,), "episode"),
        ("rows", (1,), "episode"),
    ]
    assert (made.warm_up, VLAPruner(temporal_w=5).warm_up) == (3, 5)


@pytest.mark.parametrize(("layers", "places"), [(2, [0, 1]), (4, [0, 2]), (18, [1, 8]), (64, [4, 30])])
def test_other_depths_are_scaled(layers, places):
    shape = Shape(256, Grid(16, 16), decoder_layers=layers)
    assert [stage.layer for stage in VLAPruner().plan(shape, Budget("64"))] == places


def test_a_full_budget_is_the_dense_model():
    made = VLAPruner()
    assert (made.plan(SHAPE, Budget("256")), made.steps(SHAPE, Budget("1.0")), made.states(SHAPE, Budget("100%"))) == (
        (),
        (),
        (),
    )


def test_what_cannot_be_planned_is_told():
    with pytest.raises(UserError, match="--images 2: vla-pruner follows one picture"):
        VLAPruner().plan(Shape(256, Grid(16, 16), decoder_layers=32, images=2), Budget("64"))
    with pytest.raises(UserError, match="history_layer 2 must come behind the cut before layer 3"):
        VLAPruner(fastv_k=3, history_layer=2).plan(SHAPE, Budget("64"))
    with pytest.raises(UserError, match="the decoder has 1 layers"):
        VLAPruner().plan(Shape(256, Grid(16, 16)), Budget("64"))


@pytest.mark.parametrize(
    "params",
    [
        {"selection": "first_token"},
        {"guide_dtype": "fp16"},
        {"fastv_k": "0"},
        {"fastv_k": "1.5"},
        {"history_layer": "x"},
        {"temporal_w": "0"},
        {"temporal_gamma": "0"},
        {"temporal_gamma": "1.1"},
    ],
)
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("vla-pruner", params)
    assert "\n" not in str(caught.value)
