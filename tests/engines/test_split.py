"""What bundle.json says of a decoder in two parts, and prompts on their way to the part that reads them."""

import numpy as np
import pytest

from engines.contract import parse
from engines.errors import UserError
from engines.session import Session
from tests.engines.numpy_bundle import KEEP, PICTURES, PROMPTS, SINGLE, SPLIT, STATIC, contract, open_numpy
from tests.engines.numpy_model import NumpyModel

BUCKETS = {"keep": 5, "positions": "keep", "second": 5, "buckets": (8, 16, 24)}
EVICTING = {"keep": 5, "second": 5, "evict": 12}
STATE = {"name": "seen", "shape": [3, 2], "dtype": "float32", "initial": 0.5, "reset": "episode", "reads": ["prefill"]}
WRONG = r"^bundle\.json: missing or wrong entry \(.*\); export the bundle again$"


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def facts(settings, **changes):
    return parse(contract(NumpyModel(**settings)) | changes).split


def test_what_is_said_of_parts_and_caches():
    assert facts(SINGLE) is None
    split = facts(SPLIT, states=[STATE])
    assert [(each.part, each.tokens, each.whole) for each in split.prefills] == [("prefill", 5, False)]
    assert (split.whole, split.warm_up, split.fixed, split.capacity, split.above) == (False, 0, frozenset(), (), None)
    assert [(spec.name, spec.shape, spec.reset) for spec in split.states] == [("seen", (3, 2), "episode")]
    assert facts({**SPLIT, "held": 7}).fixed == {1}
    assert facts({**STATIC, "max_length": 60}).capacity == (60, 54)
    assert facts(EVICTING).above == 12
    assert facts(EVICTING).parts == {"prefill", "decode", "evict"}
    assert [each.tokens for each in facts(BUCKETS).prefills] == [8, 16, 24]
    assert [each.part for each in facts({**SPLIT, "warm": 2}).prefills] == ["prefill.warm", "prefill"]


ENTRY = {"part": "prefill", "tokens": 5, "whole": False}
GROUP = {"layers": [0, 1], "tokens": 5, "fixed": None}


@pytest.mark.parametrize(
    "change",
    [
        {"prefill": None},
        {"prefill": []},  # and no part decoder
        {"prefill": [ENTRY, ENTRY]},
        {"prefill": [{**ENTRY, "part": "decode"}]},
        {"prefill": [{**ENTRY, "part": ["prefill"]}]},
        {"prefill": [{**ENTRY, "part": "prefill.other"}]},
        {"prefill": [{**ENTRY, "tokens": -1}]},
        {"prefill": [{**ENTRY, "tokens": 4}]},  # a picture has five
        {"prefill": [{**ENTRY, "tokens": 2**30, "whole": True}]},
        {"prefill": [{**ENTRY, "tokens": 0, "whole": True}]},
        {"prefill": [{**ENTRY, "whole": 1}]},
        {"warm_up": 1},  # and no part for it
        {"warm_up": True},
        {"slot_positions": 0},
        {"kv": {}},
        {"kv": {"form": "shrinking", "capacity": []}},
        {"kv": {"form": "static", "capacity": [200]}},
        {"kv": {"form": "static", "capacity": [200, 0]}},
        {"kv": {"form": "static", "capacity": [200, 201]}},  # longer than max_length
        {"kv": {"form": "growing", "capacity": [200, 194]}},
        {"evict": {}},
        {"evict": {"above": "7"}},
        {"evict": {"above": 7}},  # and no part for it
        {"groups": [{**GROUP, "fixed": 0}]},
        {"groups": [{**GROUP, "fixed": 7.0}]},
        {"groups": [{**GROUP, "tokens": -1}]},
        {"groups": [{"layers": [0, 1], "tokens": 5}]},
        {"states": {}, "prefill": 3},
        {"states": [STATE, STATE]},
        {"states": [{**STATE, "name": 3}]},
        {"states": [{**STATE, "shape": 3}]},
        {"states": [{**STATE, "shape": [3, -1]}]},
        {"states": [{**STATE, "shape": [2**20, 2**20]}]},
        {"states": [{**STATE, "shape": ["slots"]}]},  # of an episode
        {"states": [{**STATE, "dtype": "float64"}]},
        {"states": [{**STATE, "initial": float("nan")}]},
        {"states": [{**STATE, "initial": True}]},
        {"states": [{**STATE, "reset": "never"}]},
        {"states": [{**STATE, "reads": ["vision"]}]},
        {"states": [{key: value for key, value in STATE.items() if key != "reads"}]},
    ],
)
def test_malformed_entries_are_refused_in_one_line(change):
    raw = contract(NumpyModel(**SPLIT))
    parse(raw)
    with pytest.raises(UserError, match=WRONG):
        parse(raw | change)


@pytest.mark.parametrize("key", ["prefill", "states", "warm_up", "slot_positions", "kv", "evict"])
@pytest.mark.parametrize("settings", [SINGLE, SPLIT])
def test_every_entry_must_be_there(settings, key):
    raw = contract(NumpyModel(**settings))
    del raw[key]
    with pytest.raises(UserError, match=key):
        parse(raw)


def test_a_model_of_text_has_spans_of_nothing():
    raw = contract(NumpyModel(**SPLIT)) | {"pictures": []}
    raw["model"]["image_token_id"] = None
    del raw["parts"]["vision"]
    with pytest.raises(UserError, match="tokens of the forms differ"):
        parse(raw)
    raw["prefill"][0]["tokens"] = 0
    raw["parts"]["prefill"]["inputs"] = [{"name": "inputs_embeds"}, {"name": "attention_mask"}]
    seen = {}

    def prefill(feeds):
        seen.update(feeds)
        return NumpyModel(**SPLIT).prefill({**feeds, "position_ids": feeds["attention_mask"].cumsum(1) - 1})

    session = Session(raw, NumpyModel(**SPLIT).parts() | {"prefill": prefill}, prompt=None)
    _, logits = session.prefill([[5, 9], [13, 9, 8]], [[], []])
    assert seen["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    close(logits, open_numpy(SPLIT).prefill([[5, 9], [13, 9, 8]], [[], []])[1])
    with pytest.raises(UserError, match="reads text only"):
        session.prefill([[5]], [PICTURES[0]])


def test_buckets_ascend():
    raw = contract(NumpyModel(**BUCKETS))
    with pytest.raises(UserError, match="prefill parts"):
        parse(raw | {"prefill": raw["prefill"][::-1]})


def watched(settings):
    """A session, and which parts of it read prompts, with the rows of each."""
    calls = []

    def watch(name, run):
        def watched(feeds):
            if name.startswith("prefill"):
                assert "span_starts" not in feeds
                calls.append((name, feeds["inputs_embeds"].shape[1]))
            return run(feeds)

        return watched

    return open_numpy(settings, wrap=watch), calls


def test_prompts_are_padded_to_the_smallest_bucket_that_holds_the_longest():
    """With their pictures' rows. These parts cut nothing: padding is not seen, now or later."""
    session, calls = watched(BUCKETS)
    one = open_numpy(KEEP)
    (state, logits), (plain, wanted) = (each.prefill(PROMPTS, PICTURES) for each in (session, one))
    assert calls == [("prefill.24", 24)]  # the third takes 17 rows
    close(logits, wanted)
    assert state.positions[:, 0].tolist() == plain.positions[:, 0].tolist()
    turns = [[9], [13, 14, 15, 16], [8, 7]]
    close(session.extend(state, turns), one.extend(plain, turns))
    for tokens, size in ((8, 8), (9, 16), (24, 24)):
        session.prefill([[5] * tokens], [[]])
        assert calls[-1] == (f"prefill.{size}", size)


def test_a_prompt_longer_than_the_largest_bucket_is_refused():
    session, calls = watched(BUCKETS)
    with pytest.raises(UserError, match=r"too long: the prompt takes 25 rows, .* at most 24: .* longer --buckets"):
        session.prefill([[5], [5] * 25], [[], []])
    assert calls == []


@pytest.mark.parametrize("largest", [3, 40])
def test_a_step_that_keeps_the_cache_at_its_size_gives_the_next_one_its_mask(largest):
    session, plain = open_numpy({**SPLIT, "held": largest}), open_numpy(SPLIT)
    (state, logits), (other, wanted) = (each.prefill(PROMPTS, PICTURES) for each in (session, plain))
    close(logits, wanted)
    assert state.masks[1].shape == (3, largest)
    counts = state.masks[1].sum(1)
    for tokens in ([9, 13, 15], [16, 9, 13]):
        got, grown = (each.step(one, np.array(tokens)) for each, one in ((session, state), (plain, other)))
        if largest == 40:
            close(got, grown)
        else:
            assert np.abs(got - grown).max() > 1e-3
        counts = np.minimum(counts + 1, largest)
        assert state.masks[1].sum(1).tolist() == counts.tolist()
        assert state.kv["present.1.key"].shape[2] == state.masks[1].shape[1] == largest
    assert state.positions.tolist() == other.positions.tolist()
    assert state.slots == other.slots


def test_caches_of_constant_size_end_where_the_limits_say():
    """They never fill up, but prompt and answer have the length that was exported for."""
    session = open_numpy({**SPLIT, "held": 3, "max_length": 20})
    raw = contract(NumpyModel(**SPLIT, held=3))
    assert raw["groups"][1]["fixed"] == 3
    answer = session.generate([PROMPTS[0]], [PICTURES[0]], 100, stop_ids=[])[0]
    plain = open_numpy({**SPLIT, "max_length": 20})
    assert len(answer) == len(plain.generate([PROMPTS[0]], [PICTURES[0]], 100, stop_ids=[])[0])


def test_static_caches_never_grow_and_are_written_where_the_new_rows_are():
    session, seen = open_numpy(STATIC), []
    model = NumpyModel(**STATIC)

    def watch(feeds):
        seen.append({name: values.copy() for name, values in feeds.items()})
        return model.decode(feeds)

    session = Session(contract(model), model.parts() | {"decode": watch}, prompt=None)
    state, _ = session.prefill(PROMPTS, PICTURES)
    rows = [mask.shape[1] for mask in state.masks]
    session.extend(state, [[9], [13, 14, 15, 16], [8, 7]])
    session.step(state, np.array([9, 13, 15]))
    sizes = [state.kv[f"present.{layer}.key"].shape[2] for layer in range(2)]
    assert sizes == [200, 200 - 2 * 3] == [seen[0][f"attention_mask.{g}"].shape[1] for g in range(2)]
    for g in range(2):
        assert seen[0][f"slots.{g}"].tolist() == [[rows[g] + t for t in range(4)]] * 3
        assert seen[1][f"slots.{g}"].tolist() == [[rows[g] + 4]] * 3
        assert seen[0][f"attention_mask.{g}"].sum(1).tolist() == (state.masks[g].sum(1) - 1).tolist()
    assert seen[0]["key_bias.1"].shape == (3, 194)


def test_a_static_cache_that_is_too_small_is_refused():
    raw = contract(NumpyModel(**STATIC))
    raw["kv"]["capacity"] = [20, 5]
    session = Session(raw, NumpyModel(**STATIC).parts(), prompt=None)
    with pytest.raises(UserError, match=r"slots, where bundle\.json says 5"):
        session.prefill(PROMPTS, PICTURES)


def test_what_is_evicted_between_turns():
    """The cache is cut before a turn, not before a token; nobody misses what holds no token."""
    session, plain = open_numpy({**EVICTING, "evict": 25}), open_numpy({**EVICTING, "evict": 90})
    (state, _), (other, _) = (each.prefill(PROMPTS, PICTURES) for each in (session, plain))
    turns = [[[9], [13, 14, 15, 16], [8, 7]], [[13, 14], [9], [10, 11, 12]], [[5] * 6, [9] * 3, [10]]]
    for number, turn in enumerate(turns):
        close(session.extend(state, turn), plain.extend(other, turn))
        tokens = np.array([9, 13, 15])
        close(session.step(state, tokens), plain.step(other, tokens))
        assert state.slots == [17 + 5, 22 + 4, 25 + 7][number]  # above 25 only before the third
    assert state.positions.tolist() == other.positions.tolist()
    assert other.slots == 26 + 7


def test_positions_begin_anew_behind_what_is_left():
    session = open_numpy(EVICTING)
    state, _ = session.prefill(PROMPTS, PICTURES)
    before = state.positions.copy()
    session.step(state, np.array([9, 13, 15]))
    assert (state.positions == before + 1).all()
    session.extend(state, [[9, 8], [13], [7]])
    assert state.positions[:, 0].tolist() == [12 + 2, 4 + 1, 12 + 1]
    assert [mask.shape[1] for mask in state.masks] == [14, 14]
    assert state.slots == 14
    long = open_numpy({**EVICTING, "max_length": 40})
    state, _ = long.prefill(PROMPTS, PICTURES)
    for _ in range(6):
        long.extend(state, [[9] * 20] * 3)
    kept = {name: values.copy() for name, values in state.kv.items()}
    with pytest.raises(UserError, match="too long"):
        long.extend(state, [[9] * 29] * 3)
    assert state.slots == 32
    assert all(np.array_equal(values, state.kv[name]) for name, values in kept.items())
