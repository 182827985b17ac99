"""DyCoke: which frames are pruned, against which, in which order; what each step looks at."""

from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.dycoke import DyCoke
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage, StateSpec
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case
from tests.exporter.methods.plain_decoder import causal
from tests.exporter.methods.small_decoder import WIDTH, small_decoder
from tools.goldens.decoders import play


def shaped(views, patches):
    return Shape(patches, Grid(1, patches), views=views, video=True)


def kept(video, keep, **parameters):
    """Of rows `[B,F,L,D]`: `[B,K]`, K the plan's."""
    taps = hidden_taps(video.flatten(1, 2), views=video.shape[1], video=True)
    reducer = DyCoke(**parameters)
    (stage,) = reducer.plan(taps.shape, Budget(str(keep)))
    found = reducer.select(taps, stage).indices[:, 0]
    assert found.shape[1] == stage.keep
    return found


def planned(views, patches, keep="1", **parameters):
    (stage,) = DyCoke(**parameters).plan(shaped(views, patches), Budget(keep))
    return stage.keep


@pytest.mark.parametrize("path", golden_paths("dycoke"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


@pytest.mark.parametrize(
    ("views", "counts"),
    [
        (5, [4, 1, 1, 1, 0]),
        (6, [4, 1, 1, 1, 4, 1]),
        (8, [4, 1, 1, 1, 4, 1, 4, 1]),  # the last group of four keeps its third frame
        (9, [4, 1, 1, 1, 4, 1, 1, 1, 0]),  # unless a frame is odd, which is lost itself
        (10, [4, 1, 1, 1, 4, 1, 1, 1, 4, 1]),
    ],
)
def test_frames_keep_all_or_their_share(views, counts):
    video = normal(1, views, 4, 8)
    found = kept(video, 1, merging_ratio=0.7)
    assert torch.bincount(found[0] // 4, minlength=views).tolist() == counts
    assert (found.diff(dim=-1) > 0).all()


def test_the_count_is_the_paper_s():
    assert planned(32, 196, merging_ratio=0.7) == 3098  # 58 of 196: int(0.30000000000000004 * 196)
    assert planned(8, 36, merging_ratio=0.7) == 158


def test_a_budget_gives_every_pruned_frame_the_same():
    assert planned(32, 196, "3098") == 3098
    assert planned(32, 196, "3097") == 3098 - 23
    assert planned(32, 196, "100%") == 32 * 196
    assert planned(9, 25, "100%") == 8 * 25  # the last frame of nine is never kept


@pytest.mark.parametrize("keep", [3 * 12 + 5, 60, 95, 96])
def test_every_possible_budget_comes_within_a_token_a_frame(keep):
    found = kept(normal(2, 8, 12, 4), keep)
    assert keep - 5 < found.shape[1] <= keep
    assert all(len(set(row)) == len(row) for row in found.tolist())


def test_less_than_the_whole_frames_is_refused():
    with pytest.raises(UserError, match="give --keep 41 or more"):
        planned(8, 12, "40")
    with pytest.raises(UserError, match="merging_ratio"):
        planned(8, 12, merging_ratio=0.99)


def test_fewer_than_five_frames_are_refused():
    with pytest.raises(UserError, match="not 4"):
        planned(4, 12, "40")


def test_the_least_similar_places_stay_in_either_order():
    video = torch.tensor([1.0, 0.0]).repeat(1, 5, 4, 1)
    turned = torch.tensor([0.3, 0.9, 0.1, 0.6])  # frame 1 turns by this
    video[0, 1] = torch.stack([turned.cos(), turned.sin()], -1)
    spatial, alike = (kept(video, 1, merging_ratio=0.5, order=order)[0, 4:6] for order in ("spatial", "similarity"))
    assert (spatial - 4).tolist() == [1, 3]
    assert (alike - 4).tolist() == [1, 3]
    video[0, 1] = video[0, 1].flip(0)
    assert (kept(video, 1, merging_ratio=0.5, order="similarity")[0, 4:6] - 4).tolist() == [2, 0]


def test_ties_go_to_the_lower_index():
    still = torch.eye(6).expand(1, 5, -1, -1).clone()
    for order in ("spatial", "similarity"):
        found = kept(still, 1, merging_ratio=0.5, order=order)
        assert found.tolist() == [[*range(6), 6, 7, 8, 12, 13, 14, 18, 19, 20]]
        graph = exported(lambda video, order=order: kept(video, 1, merging_ratio=0.5, order=order), still)
        assert torch.equal(graph, found)


def test_batch_equals_one_at_a_time():
    video = normal(3, 9, 12, 4)
    assert torch.equal(kept(video, 70), in_turn(lambda one: kept(one, 70), video))


START, VIDEO, PROMPT = 3, 40, 50
LOOK = Stage("decoder", 1)


def talk(reducer, decoder, rows):
    """States of the prompt and of all tokens behind it."""
    played = play(decoder, reducer, (LOOK,), rows[:, :PROMPT], START, VIDEO, steps=(LOOK,))
    return torch.cat([played.hidden, *played.run([rows[:, n : n + 1] for n in range(PROMPT, rows.shape[1])])], 1)


def plain(decoder, rows, share):
    """The same with plain loops, and whether each step looked at some tokens only."""
    x, past = rows[:, :PROMPT], []
    for layer in range(decoder.layers):
        past.append(causal(decoder, layer, x, torch.arange(PROMPT)))
        x = past[-1].hidden
    out, before, pruned = [decoder.norm(x)], None, []
    for place in range(PROMPT, rows.shape[1]):
        x, seen = rows[:, place : place + 1], None
        for layer in range(decoder.layers):
            past[layer] = causal(decoder, layer, x, torch.tensor([place]), past[layer], seen)
            x = past[layer].hidden
            if layer == LOOK.layer:
                now = past[layer].attention.mean(0)[0, START : START + VIDEO]
                if before is None or torch.nn.functional.cosine_similarity(now, before, dim=0) < 0.9:
                    seen = torch.ones(place + 1) > 0
                    seen[START : START + VIDEO] = False
                    seen[START + now.topk(int(VIDEO * (1 - share))).indices] = True
                pruned.append(seen is not None)
                before = now
        out.append(decoder.norm(x))
    return torch.cat(out, 1), pruned


@pytest.mark.parametrize("share", [0.8, 0.5, 0.99])
def test_steps_look_at_a_part_unless_they_look_as_before(share):
    """Tokens come in pairs and look around softly, so that some steps look as the ones before."""
    decoder, rows = small_decoder(4), normal(1, PROMPT + 6, WIDTH)
    rows[:, PROMPT + 1 :: 2] = rows[:, PROMPT::2] * 1.001
    decoder.weights["layers.1.self_attn.q_proj.weight"] *= 0.2
    want, pruned = plain(decoder, rows, share)
    assert pruned[0]
    assert 0 < sum(pruned) < 6
    torch.testing.assert_close(talk(DyCoke(dycoke_p=share), decoder, rows), want)


def test_a_share_of_nothing_is_the_dense_model():
    decoder, rows = small_decoder(3), normal(1, PROMPT + 3, WIDTH)
    dense = play(decoder, DyCoke(), (), rows, START, VIDEO).hidden
    torch.testing.assert_close(talk(DyCoke(dycoke_p=0.0), decoder, rows), dense)
    assert not torch.allclose(talk(DyCoke(), decoder, rows)[:, -1], dense[:, -1], atol=1e-3)


def test_the_graph_of_steps_is_the_reducer():
    decoder = small_decoder(3)
    rows = normal(1, PROMPT + 2, WIDTH)
    exported(lambda rows: talk(DyCoke(), decoder, rows), rows)


class Slots:
    """Taps of a step: attention `[B,H,1,n]` of the new token, and the slots of spans, -1 where one is gone."""

    def __init__(self, attention, span, previous):
        self.attention, self.span, self.state = attention, span, {"previous": previous}

    def rows(self, layer, rows):
        assert (layer, rows) == (LOOK.layer, "last")
        return self.attention

    def span_of(self, values):
        lines = zip(values, self.span, strict=True)
        return torch.stack([torch.stack([one[..., each] * (each >= 0) for each in spans]) for one, spans in lines])


def test_every_sequence_and_every_video_is_by_itself():
    span = torch.stack([torch.arange(10), 12 + torch.arange(10)])[None] + torch.tensor([0, 3])[:, None, None]
    attention = normal(2, 4, 1, 26).abs()
    mean = attention.mean(1)[:, 0]
    own = torch.stack([mean[b][span[b]] for b in range(2)])
    previous = own.clone()
    previous[0, 1] = torch.eye(10)[0]
    previous[1, 0] = 0
    found = DyCoke(dycoke_p=0.7).decode(Slots(attention, span, previous), LOOK)
    assert torch.equal(found.state["previous"], own)
    for b, i in ((0, 0), (1, 1)):
        assert (found.key_bias[b, i] == 0).all()
    for b, i in ((0, 1), (1, 0)):
        stay = own[b, i].topk(3).indices
        assert (found.key_bias[b, i] == 0).nonzero()[:, 0].tolist() == stay.sort().values.tolist()
        assert found.key_bias[b, i].min() == -1e4


def test_equal_attention_looks_at_the_first_tokens():
    span = torch.arange(10)[None, None]
    found = DyCoke().decode(Slots(torch.ones(1, 2, 1, 10), span, torch.zeros(1, 1, 10)), LOOK)
    assert (found.key_bias[0, 0] == 0).nonzero().flatten().tolist() == [0]  # 10 (1 - 0.8) is 1.99..


@pytest.mark.parametrize(("layers", "given", "after"), [(32, 3, 2), (28, 5, 4), (3, 3, 1), (2, 3, 0)])
def test_stages_of_both_kinds(layers, given, after):
    shape = replace(shaped(8, 12), decoder_layers=layers, images=2)
    reducer = DyCoke(dycoke_l=given)
    cut, look = make_plan("dycoke", reducer, shape, Budget("60"))
    entry = shape.flat(cut.keep)
    assert look == Stage("decoder", after)
    for known in (shape, entry):
        assert reducer.steps(known, Budget("60")) == (look,)
    assert reducer.states(entry, Budget("60")) == (StateSpec("previous", (2, cut.keep)),)


@pytest.mark.parametrize(("keep", "layers", "parameters"), [("60", 8, {"stage2": False}), ("96", 8, {}), ("60", 1, {})])
def test_no_steps_without_a_second_stage_or_of_all_tokens(keep, layers, parameters):
    shape, reducer = replace(shaped(8, 12), decoder_layers=layers), DyCoke(**parameters)
    (cut,) = reducer.plan(shape, Budget(keep))
    entry = shape.flat(cut.keep)
    assert reducer.steps(entry, Budget(keep)) == ()
    assert reducer.states(entry, Budget(keep)) == ()


def test_a_request_starts_with_nothing():
    (found,) = DyCoke().select(hidden_taps(normal(2, 9, 4)), LOOK).state.values()
    assert torch.equal(found, torch.zeros(2, 1, 9))


@pytest.mark.parametrize(
    ("name", "value"),
    [("order", "time"), ("merging_ratio", "1"), ("merging_ratio", "-0.1"), ("dycoke_p", "1.5"), ("dycoke_l", "0")],
)
def test_bad_parameters_are_one_line(name, value):
    with pytest.raises(UserError, match=name) as caught:
        method("dycoke", {name: value})
    assert "\n" not in str(caught.value)
