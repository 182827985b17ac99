"""A2SF: what stays of caches, in prompts and at every token."""

from dataclasses import dataclass, field

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.forgetting import forgetting
from exporter.methods.a2sf import A2SF
from exporter.reducer import Grid, Shape, Stage, StateSpec
from exporter.registry import method
from tests.exporter.methods.common import attention, exported, golden_paths, normal, play_case
from tests.exporter.methods.small_decoder import DIM, HEADS, KEYS, WIDTH, first_layer, small_decoder
from tools.goldens.decoders import play

GROUP = HEADS // KEYS
SHAPE = Shape(576, Grid(24, 24), decoder_layers=3, heads=HEADS, kv_heads=KEYS)


@dataclass
class Given:
    """Taps over attention `[B,H,T,n]` whose rows see valid columns only."""

    attention: torch.Tensor
    valid: torch.Tensor
    state: dict = field(default_factory=dict)
    shape: Shape = SHAPE

    def __post_init__(self):
        seen = self.attention * self.valid[:, None, None]
        self.attention = seen / seen.sum(-1, keepdim=True)

    def column_sum(self, layer, weights):
        return torch.einsum("bq,bhqk->bhk", weights, self.attention)

    def rows(self, layer, places):
        assert places.shape[1] == self.attention.shape[2]
        return self.attention


@pytest.mark.parametrize("path", golden_paths("a2sf"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 6


def talk(reducer, keep, prompt, count, seed=0):
    """A prompt and so many tokens behind it; what was played, all rows, and the states of the new ones."""
    decoder, rows = small_decoder(), normal(1, prompt + count, WIDTH, seed=seed)
    shape, budget = decoder.shape(prompt), Budget(str(keep))
    stages, steps = reducer.plan(shape, budget), reducer.steps(shape, budget)
    played = play(decoder, reducer, stages, rows[:, :prompt], 0, prompt, steps=steps)
    return played, rows, played.run([rows[:, n : n + 1] for n in range(prompt, prompt + count)])


def by_hand(reducer, keep, prompt, rows):
    """Of the first layer and every key head: the tokens in the cache and their scores, token by token."""
    q, k, _ = first_layer(small_decoder(), rows)
    first, last = reducer.ends(keep)
    found = []
    for head in range(KEYS):
        cache, scores = [], {}
        for call in [range(prompt), *([n] for n in range(prompt, rows.shape[1]))]:
            cache += list(call)
            received = dict.fromkeys(cache, 0.0)
            for age, query in enumerate(reversed(call)):
                seen = [token for token in cache if token <= query]
                for one in range(head * GROUP, head * GROUP + GROUP):
                    row = (q[one, query] @ k[head, seen].T * DIM**-0.5).softmax(-1)
                    for token, share in zip(seen, row.tolist(), strict=True):
                        received[token] += reducer.alpha**age * share
            evicts = call[-1] < prompt or reducer.form == "recurrent"
            if call[-1] + 1 > keep and evicts:
                scores = {token: reducer.alpha * scores.get(token, 0) + received[token] for token in cache}
                middle = sorted(cache[first : len(cache) - last], key=lambda token: -scores[token])
                stay = {*cache[:first], *cache[len(cache) - last :], *middle[: keep - first - last]}
                cache = [token for token in cache if token in stay]
        found.append((cache, [scores.get(token, 0.0) for token in cache]))
    return k, found


@pytest.mark.parametrize(("keep", "prompt"), [(8, 14), (8, 8), (10, 6), (13, 9), (40, 9)])
@pytest.mark.parametrize("reducer", [A2SF("recurrent", 0.8), A2SF("recurrent", 0.5, 2, 0), A2SF("prefill", 0.9, 3)])
def test_the_first_layers_cache_token_by_token(reducer, keep, prompt):
    played, rows, _ = talk(reducer, keep, prompt, 6)
    k, found = by_hand(reducer, keep, prompt, rows)
    for head, (cache, scores) in enumerate(found):
        key = played.past[0][0][0, head][played.slots[0][0]]
        torch.testing.assert_close(key, k[head, cache])
        if reducer.form == "recurrent":
            state = played.state["score.0"][0, head]
            torch.testing.assert_close(state, torch.tensor(scores + [0.0] * (keep - len(scores))))


@pytest.mark.parametrize("form", ["prefill", "recurrent"])
def test_a_cache_with_room_for_all_is_the_dense_model(form):
    _, _, dense = talk(A2SF(form), "100%", 9, 6)
    _, _, roomy = talk(A2SF(form), 15, 9, 6)
    torch.testing.assert_close(dense, roomy)


def test_every_layer_is_cut_and_tight_caches_differ():
    played, _, tight = talk(A2SF("recurrent"), 6, 9, 3)
    assert [pair[0].shape[2] for pair in played.past.values()] == [6, 6, 6]
    _, _, dense = talk(A2SF("recurrent"), "100%", 9, 3)
    assert not torch.allclose(tight[-1], dense[-1], atol=1e-3)


def test_the_graph_is_the_reducer():
    decoder, reducer = small_decoder(2), A2SF("recurrent", 0.8)
    stages = reducer.plan(decoder.shape(9), Budget("6"))

    def run(prompt, answer):
        played = play(decoder, reducer, stages, prompt, 0, 9, steps=stages)
        rows = played.run([answer[:, :1], answer[:, 1:]])
        return {"rows": torch.cat(rows, 1), "score": played.state["score.1"], "key": played.past[1][0]}

    assert exported(run, normal(1, 9, WIDTH), normal(1, 3, WIDTH, seed=1))["score"].shape == (1, KEYS, 6)


LENGTHS, KEEP = (12, 5, 7), 6


def batch(rows, columns, lengths=LENGTHS):
    """Causal-like attention of a right-padded batch and what is valid."""
    return attention(len(lengths), HEADS, rows, columns), torch.arange(columns) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("form", ["prefill", "recurrent"])
def test_padded_prompts_are_as_if_they_were_alone(form):
    reducer, stage = A2SF(form, recent=2, streaming=1), Stage("decoder", 1, "kv", keep=KEEP)
    seen, valid = batch(12, 12)
    together = reducer.select(Given(seen, valid), stage)
    for number, length in enumerate(LENGTHS):
        part = seen[number : number + 1, :, :length, :length]
        one = reducer.select(Given(part, valid[number : number + 1, :length]), stage)
        assert torch.equal(together.indices[number], one.indices[0])
        assert one.indices[0, 0].tolist()[: min(length, KEEP)] == sorted(
            one.indices[0, 0].tolist()[: min(length, KEEP)]
        )
        for name, state in one.state.items():
            torch.testing.assert_close(together.state[name][number], state[0])
    assert together.indices[1].tolist() == [[0, 1, 2, 3, 4, -2]] * KEYS


def test_padded_rows_of_a_step_count_for_nothing():
    reducer, stage = A2SF("recurrent", recent=2, streaming=1), Stage("decoder", 1, "kv", keep=KEEP)
    cached, fresh = (6, 6, 3), (3, 1, 2)
    valid = (
        torch.tensor([[1] * c + [0] * (6 - c) + [1] * f + [0] * (3 - f) for c, f in zip(cached, fresh, strict=True)])
        > 0
    )
    seen, score = attention(3, HEADS, 3, 9), normal(3, KEYS, 6).abs()
    score[2] = 0
    together = reducer.decode(Given(seen, valid, {"score.1": score}), stage)
    for number, new in enumerate(fresh):
        there = [*range(6), *range(6, 6 + new)]
        part = seen[number : number + 1, :, :new][..., there]
        one = Given(part, valid[number : number + 1, there], {"score.1": score[number : number + 1]})
        alone = reducer.decode(one, stage)
        assert torch.equal(together.indices[number], alone.indices[0])
        torch.testing.assert_close(together.state["score.1"][number], alone.state["score.1"][0])
    assert together.indices[2].tolist() == [[0, 1, 2, 6, 7, -2]] * KEYS
    assert not together.state["score.1"][2].any()


def test_weights_forget_by_age_and_skip_padding():
    valid = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]) > 0
    want = [[0.25, 0.5, 1, 0, 0], [0.125, 0, 0.25, 0.5, 1]]
    assert forgetting(valid, 0.5).tolist() == want
    assert forgetting(valid, 0.0).tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


def test_ties_go_to_the_lower_index():
    given = Given(torch.ones(1, HEADS, 9, 9), torch.ones(1, 9) > 0)
    kept = A2SF(recent=2).select(given, Stage("decoder", 0, "kv", keep=5)).indices
    assert kept.tolist() == [[[0, 1, 2, 7, 8]] * KEYS]


def test_plans():
    stages = tuple(Stage("decoder", layer, "kv", keep=256) for layer in range(3))
    once, always = method("a2sf"), method("a2sf", {"form": "recurrent"})
    assert once.plan(SHAPE, Budget("256")) == always.plan(SHAPE, Budget("256")) == stages
    assert (once.steps(SHAPE, Budget("256")), once.states(SHAPE, Budget("256"))) == ((), ())
    assert always.steps(SHAPE, Budget("256")) == stages
    assert always.states(SHAPE, Budget("256"))[2] == StateSpec("score.2", (KEYS, 256))
    assert once.plan(SHAPE, Budget("50%"))[0].keep == 288
    assert once.plan(SHAPE, Budget("2000"))[0].keep == 2000
    assert once.plan(SHAPE, Budget("100%")) == always.steps(SHAPE, Budget("1.0")) == ()


@pytest.mark.parametrize(
    ("form", "keep", "ends"),
    [
        ("prefill", 256, (0, 16)),
        ("prefill", 4, (0, 4)),
        ("recurrent", 133, (5, 64)),
        ("recurrent", 8, (2, 3)),
        ("recurrent", 1, (0, 1)),
    ],
)
def test_what_always_stays_is_the_authors(form, keep, ends):
    assert A2SF(form).ends(keep) == ends


@pytest.mark.parametrize(
    ("shape", "keep", "params"),
    [
        (SHAPE, "20", {"recent": "18", "streaming": "3"}),
        (Shape(0, Grid(0, 0)), "50%", {}),
        (SHAPE, "0", {}),
    ],
)
def test_a_budget_without_room_is_one_line(shape, keep, params):
    with pytest.raises(UserError) as caught:
        method("a2sf", params).plan(shape, Budget(keep))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [{"form": "mask"}, {"alpha": "1.5"}, {"alpha": "-0.1"}, {"recent": "0"}, {"recent": "-2"}, {"streaming": "-3"}],
)
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("a2sf", params)
    assert "\n" not in str(caught.value)
