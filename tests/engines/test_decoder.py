import numpy as np
import pytest

from engines.errors import UserError
from tests.engines.numpy_bundle import (
    BIASED,
    EMPTY,
    KEEP,
    MODELS,
    MROPE,
    PICTURES,
    PROMPTS,
    SINGLE,
    SPLIT,
    UNCUT,
    open_numpy,
    picture,
    video,
)
from tests.engines.numpy_model import IMAGE, PATCHES, VIDEO


def single(session, b, prompt=None):
    state, logits = session.prefill([prompt or PROMPTS[b]], [PICTURES[b]])
    return state, logits[0]


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("settings", MODELS)
def test_a_batch_gives_what_each_prompt_gives_alone(settings):
    session = open_numpy(settings)
    state, logits = session.prefill(PROMPTS, PICTURES)
    alone = [single(session, b) for b in range(3)]
    close(logits, [row for _, row in alone])
    for tokens in ([9, 13, 15], [16, 9, 13]):  # rows of unequal length keep their own positions
        logits = session.step(state, np.array(tokens))
        close(logits, [session.step(one, np.array([t]))[0] for (one, _), t in zip(alone, tokens, strict=True)])


@pytest.mark.parametrize("settings", MODELS)
def test_the_cache_gives_what_recomputing_gives(settings):
    session = open_numpy(settings)
    state, _ = session.prefill(PROMPTS, PICTURES)
    said = [[], [], []]
    for tokens in ([9, 13, 15], [16, 9, 13], [8, 7, 6]):
        logits = session.step(state, np.array(tokens))
        said = [[*old, new] for old, new in zip(said, tokens, strict=True)]
        close(logits, [single(session, b, PROMPTS[b] + said[b])[1] for b in range(3)])


@pytest.mark.parametrize("settings", MODELS)
def test_follow_ups_of_unequal_length_give_what_recomputing_gives(settings):
    session = open_numpy(settings)
    state, _ = session.prefill(PROMPTS, PICTURES)
    turns = [[9], [13, 14, 15, 16], [8, 7]]
    close(session.extend(state, turns), [single(session, b, PROMPTS[b] + turns[b])[1] for b in range(3)])
    more = [[13, 14], [9], [10, 11, 12]]
    whole = [PROMPTS[b] + turns[b] + more[b] for b in range(3)]
    close(session.extend(state, more), [single(session, b, whole[b])[1] for b in range(3)])


def test_a_prefill_part_that_drops_nothing_gives_what_one_decoder_gives():
    """The one runs without a cache, the other behind a dummy slot: that slot must not be seen."""
    one, split = open_numpy(KEEP), open_numpy({**KEEP, "second": KEEP["keep"]})
    close(one.prefill(PROMPTS, PICTURES)[1], split.prefill(PROMPTS, PICTURES)[1])


@pytest.mark.parametrize("settings", UNCUT)
def test_pictures_may_come_in_a_follow_up(settings):
    session = open_numpy(settings)
    state, _ = session.prefill([[5, IMAGE, 9], [5, 9]], [[picture(1)], []])
    seen = session.see([picture(2), picture(3)])
    logits = session.extend(state, [[13], [IMAGE, 10, IMAGE]], [0, 2], seen)
    _, first = session.prefill([[5, IMAGE, 9, 13]], [[picture(1)]])
    _, second = session.prefill([[5, 9, IMAGE, 10, IMAGE]], [[picture(2), picture(3)]])
    close(logits, np.concatenate([first, second]))


def test_a_split_decoder_refuses_pictures_in_a_follow_up():
    session = open_numpy(SPLIT)
    state, _ = single(session, 0)
    with pytest.raises(UserError, match="in prefill only"):
        session.extend(state, [[IMAGE, 9]], [1], session.see([picture(2)]))


@pytest.mark.parametrize("settings", MODELS)
def test_what_matters_matters(settings):
    """The model is no constant: pictures, their order, positions and the cache all change the logits."""
    session = open_numpy(settings)
    prompt = [5, IMAGE, 9, IMAGE, 10]
    one = session.prefill([prompt], [[picture(1), picture(2)]])[1]
    other = session.prefill([prompt], [[picture(2), picture(1)]])[1]
    later = session.prefill([[9, *prompt]], [[picture(1), picture(2)]])[1]
    assert np.abs(one - other).max() > 0.01
    assert np.abs(one - later).max() > 0.01


def test_kept_positions_differ_from_new_numbers():
    new, kept = single(open_numpy(SINGLE), 0)[1], single(open_numpy(KEEP), 0)[1]
    assert np.abs(new - kept).max() > 0.01


def test_a_split_decoder_caches_as_many_rows_as_each_group_keeps():
    state, _ = open_numpy(SPLIT).prefill(PROMPTS, PICTURES)
    lengths = [state.kv[f"present.{layer}.key"].shape[2] for layer in range(2)]
    assert lengths[0] - lengths[1] == 2 * (5 - 2)  # two spans of five, two kept
    assert [mask.shape[1] for mask in state.masks] == lengths


def test_positions_count_what_was_pruned_only_where_positions_are_kept():
    spans = ((SINGLE, 5), (KEEP, PATCHES), (SPLIT, PATCHES), (EMPTY, 3), ({**KEEP, "empty": 2}, PATCHES), (MROPE, 3))
    for settings, span in spans:
        state, _ = open_numpy(settings).prefill(PROMPTS, PICTURES)
        assert state.positions[:, 0].tolist() == [6 + span, 3, 7 + 2 * span]


def test_empty_slots_change_nothing():
    """Whatever stands in them, and as if they were not there."""
    _, logits = single(open_numpy(EMPTY), 2)
    close(logits, single(open_numpy({"keep": 3}), 2)[1])
    session = open_numpy(EMPTY)
    seen = session.see(PICTURES[0])
    seen[0]["image_embeds"][seen[0]["kept_indices"] == -2] = 3
    close(session.start([PROMPTS[0]], [1], seen)[1], single(session, 0)[1][None])


@pytest.mark.parametrize("positions", ["renumber", "keep", "mrope"])
def test_pictures_of_all_forms_in_one_batch(positions):
    """Each takes the rows and the positions of its own form, alone and together, now or in a follow-up."""
    session = open_numpy({"positions": positions, "forms": ("tiles", "video"), "empty": 1})
    wide, tall, film = picture(1, (40, 9)), picture(2, (9, 9)), video(3)
    prompts = [[5, IMAGE, 9, VIDEO, 8], [5, VIDEO, 16, IMAGE, IMAGE, 9], [5, 9]]
    pictures = [[wide, film], [film, tall, wide], []]
    assert [each["form"] for each in session.see(pictures[1])] == [2, 0, 1]
    assert [len(each["kept_indices"]) for each in session.see(pictures[1])] == [8, 5, 7]
    state, logits = session.prefill(prompts, pictures)
    alone = [session.prefill([prompts[b]], [pictures[b]]) for b in range(3)]
    close(logits, [one[0] for _, one in alone])
    assert state.positions[:, 0].tolist() == [int(one.positions[0, 0]) for one, _ in alone]
    state, _ = session.prefill([[5], [5], [5]], [[], [], []])
    later = session.extend(
        state, [prompt[1:] for prompt in prompts], [2, 3, 0], session.see([wide, film, film, tall, wide])
    )
    close(later, logits)


def test_pictures_in_another_order_than_the_prompts_are_refused():
    session = open_numpy({"forms": ("video",)})
    with pytest.raises(UserError, match="picture 1 of a prompt is a video"):
        session.prefill([[IMAGE, VIDEO]], [[video(1), picture(2)]])


def test_key_bias_reaches_the_decode_part():
    session = open_numpy(BIASED)
    (state, _), (plain, _) = single(session, 0), single(session, 0)
    plain.biases = [np.zeros_like(bias) for bias in plain.biases]
    steps = [session.step(one, np.array([9])) for one in (state, plain)]
    assert np.abs(steps[0] - steps[1]).max() > 0.001


@pytest.mark.parametrize("settings", MODELS)
@pytest.mark.parametrize("limit", [{"max_length": 10}, {"max_positions": 8}])
def test_too_long_prompts_are_refused_before_the_decoder_runs(settings, limit):
    calls = []
    watch = {"prefill": calls.append, "decoder": calls.append}
    session = open_numpy({**settings, **limit}, wrap=watch.get)
    with pytest.raises(UserError, match="too long"):
        session.prefill([PROMPTS[0]], [PICTURES[0]])
    assert calls == []


@pytest.mark.parametrize("settings", MODELS)
@pytest.mark.parametrize("limit", ["max_length", "max_positions"])
def test_too_long_follow_ups_leave_the_cache_as_it_was(settings, limit):
    session = open_numpy({**settings, limit: 30})
    state, _ = single(session, 0)
    with pytest.raises(UserError, match="too long"):
        session.extend(state, [[9] * 25])
    close(session.extend(state, [[9, 13]])[0], single(session, 0, [*PROMPTS[0], 9, 13])[1])


def test_too_many_prompts_and_mismatched_pictures_are_refused():
    session = open_numpy({"max_batch": 2})
    with pytest.raises(UserError, match="3 prompts at once, the export allows 2"):
        session.prefill(PROMPTS, PICTURES)
    with pytest.raises(UserError, match=r"1 image token\(s\) but 0"):
        session.prefill([PROMPTS[0]], [[]])
