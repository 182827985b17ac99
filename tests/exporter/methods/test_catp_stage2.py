"""CATP, stage 2: what the question needs of its own picture, and of those before it."""

import torch
from torch.nn.functional import cosine_similarity

from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.context import asking, recalled, rising
from exporter.methods.catp import CATP
from exporter.reducer import Grid, Shape, Stage
from tests.exporter.methods.common import attention, exported, in_turn, normal
from tests.exporter.methods.padded_prompts import Prompts, alike, as_graph, outcome

LENGTH, WIDTH, STARTS = 26, 5, (2, 9, 16)
TWO = Prompts((30, 24), 8, ((2, 14), (1, 12)))


def several(batch=1, seed=0):
    """Three pictures, the last of them the question's; layers 4 and 5 ran."""
    seen = {
        layer: Seen(
            {"out": normal(batch, LENGTH, 6, seed=seed + layer)}, attention(batch, 2, LENGTH, LENGTH, seed=layer)
        )
        for layer in (4, 5)
    }
    return EagerTaps(STARTS, WIDTH, LENGTH, seen, Shape(WIDTH, Grid(1, WIDTH), images=3), batch=batch)


def test_the_rise_by_hand():
    taps = several()
    states = taps.hidden(5)[0].double()
    before, now = (taps.seen[layer].attention[0].double().mean(0)[-1] for layer in (4, 5))
    mean = states[STARTS[-1] :].mean(0)
    for number, start in enumerate(STARTS):
        for place in range(start, start + WIDTH):
            wanted = max(0, float(now[place] - before[place])) + 0.6 * float(cosine_similarity(states[place], mean, 0))
            assert abs(float(rising(taps, 5, 0.6)[0, number, place - start]) - wanted) < 1e-6


def test_the_first_layer_has_none_before_it():
    taps = several()
    first = EagerTaps(STARTS, WIDTH, LENGTH, {0: taps.seen[5]}, taps.shape)
    torch.testing.assert_close(rising(first, 0, 0.0), first.span_of(first.rows(0, "last").mean(1))[:, :, 0])


def test_the_question_s_picture_is_compared_with_what_the_others_keep():
    taps, scores = several(), normal(1, 3, WIDTH, seed=9)
    found = recalled(taps, 5, scores, 2)
    states = taps.hidden(5)[0].double()
    left = [start + place for s, start in enumerate(STARTS[:2]) for place in scores[0, s].topk(2).indices.tolist()]
    mean = states[left].mean(0)
    wanted = [float(cosine_similarity(states[place], mean, 0)) for place in range(16, 16 + WIDTH)]
    assert torch.equal(found[:, :2], scores[:, :2])
    torch.testing.assert_close(found[0, 2], torch.tensor(wanted), rtol=1e-5, atol=1e-6)


def test_the_look_is_carried_to_the_cut():
    taps, reducer = several(), CATP()
    need = reducer.select(taps, Stage("decoder", 5)).carry["need"]
    assert torch.equal(need, rising(taps, 5, 0.6))
    later = EagerTaps(STARTS, WIDTH, LENGTH, {6: taps.seen[4]}, taps.shape, carry={"need": need})
    found = reducer.select(later, Stage("decoder", 6, keep=2))
    assert torch.equal(found.scores, recalled(later, 6, need, 2))
    assert (found.indices.diff(dim=-1) > 0).all()


def test_ties_go_to_the_lower_index():
    taps = several()
    even = {layer: Seen({"out": torch.ones(1, LENGTH, 6)}, torch.full((1, 2, LENGTH, LENGTH), 0.1)) for layer in (4, 5)}
    found = CATP().select(EagerTaps(STARTS, WIDTH, LENGTH, even, taps.shape), Stage("decoder", 5, keep=2))
    assert found.indices.tolist() == [[[0, 1]] * 3]


def test_permuted_tokens_are_kept_as_they_were():
    taps, order = several(), torch.tensor([3, 1, 4, 0, 2])
    places = torch.arange(LENGTH)
    places[2:7] = 2 + order
    moved = {
        layer: Seen({"out": seen.points["out"][:, places]}, seen.attention[..., places])
        for layer, seen in taps.seen.items()
    }
    other = EagerTaps(STARTS, WIDTH, LENGTH, moved, taps.shape)
    one, two = (CATP().select(each, Stage("decoder", 5, keep=2)).indices[0] for each in (taps, other))
    assert order[two[0]].sort().values.tolist() == one[0].tolist()
    assert torch.equal(one[1:], two[1:])


def test_places_that_hold_no_picture_do_not_ask():
    hidden = TWO.hidden[1:]  # 24 tokens, six rows behind them
    both, alone = (Prompts((24,), 6, (starts,)).walk(CATP(), 3, hidden) for starts in ((4, 24), (4,)))
    assert torch.equal(both.sequence.origin[:, :1], alone.sequence.origin)
    torch.testing.assert_close(outcome(both)[2], outcome(alone)[2])


def test_padding_and_other_sequences_do_not_matter():
    alike(CATP(), TWO, 3)


def test_the_graph_is_the_reducer():
    assert as_graph(CATP(), TWO, 3)["rows"].shape == (2, 20)


def test_a_look_and_a_cut_as_a_graph():
    taps = several(2)

    def run(before, now, states):
        seen = {4: Seen({"out": states}, before), 5: Seen({"out": states}, now)}
        look = EagerTaps(STARTS, WIDTH, LENGTH, seen, taps.shape, batch=len(states))
        need = CATP().select(look, Stage("decoder", 5)).carry["need"]
        later = EagerTaps(STARTS, WIDTH, LENGTH, {6: seen[5]}, taps.shape, batch=len(states), carry={"need": need})
        return CATP().select(later, Stage("decoder", 6, keep=2)).indices

    given = (taps.seen[4].attention, taps.seen[5].attention, taps.hidden(5))
    assert torch.equal(exported(run, *given), in_turn(run, *given))
    assert asking(taps).tolist() == [[0, 0, 1]] * 2
