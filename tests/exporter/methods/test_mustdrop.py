"""MustDrop: windows that merge, the order of rows and their forms; the key set; what the text drops."""

from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.panes import similarity
from exporter.methods.mustdrop import MustDrop
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from exporter.sequence import Sequence, cut
from exporter.stack import Stack, Walk
from tests.exporter.methods.common import attention, exported, golden_paths, in_turn, map_taps, normal, play_case
from tests.exporter.methods.plain_decoder import causal
from tests.exporter.methods.small_decoder import WIDTH, small_decoder
from tests.exporter.tiny_stack import Layer
from tools.goldens.decoders import play

GRID = Grid(6, 9)
CLIP = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32)


def vision(**parameters):
    """LightCompress' form."""
    return MustDrop(stages="vision", **parameters)


def reduced(rows, keep="30", grid=GRID, **parameters):
    """Selection and stage for rows `[B,1+N,C]` of a tower with [CLS]."""
    shape = Shape(grid.rows * grid.cols, grid)
    reducer = vision(**parameters)
    (stage,) = reducer.plan(shape, Budget(keep))
    taps = EagerTaps((1,), shape.patches, shape.patches + 1, {0: Seen({"out": rows})}, shape, batch=len(rows))
    return reducer.select(taps, stage), stage


def after(rows, keep="30", **parameters):
    """The rows behind the cut, `[B,1+K,C]`."""
    selection, stage = reduced(rows, keep, **parameters)
    width = rows.shape[1] - 1
    origin = torch.arange(width).expand(len(rows), 1, -1)
    return cut(Sequence(rows, 1, width, origin), stage, selection, renumber=True).hidden


def by_hand(rows, merged):
    """One picture `[N,C]`, window by window of 3x3 in a 6x9 grid."""
    places = [
        [9 * (3 * down + y) + 3 * right + x for y in range(3) for x in range(3)]
        for down in (0, 1)
        for right in (0, 1, 2)
    ]
    alike = [torch.nn.functional.cosine_similarity(rows[p][:, None], rows[p][None], dim=-1) for p in places]
    score = [(float(a.sum()) - 9) / 72 for a in alike]
    best = sorted(range(6), key=lambda w: -score[w])[:merged]
    gone = {place for window in best for place in places[window]}
    single = [place for place in range(54) if place not in gone]
    return torch.cat([torch.stack([rows[places[w]].mean(0) for w in best]), rows[single]]), single


@pytest.mark.parametrize("path", golden_paths("mustdrop"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 10


def test_merged_windows_come_first_then_single_patches():
    rows = normal(2, 55, 8) + 1
    found = after(rows)
    assert found.shape == (2, 31, 8)
    assert torch.equal(found[:, 0], rows[:, 0])
    for picture, got in zip(rows, found, strict=True):
        want, _ = by_hand(picture[1:], 3)
        assert torch.allclose(got[1:], want, atol=1e-6)


def test_a_merged_row_stands_at_its_window_s_last_patch():
    rows = normal(1, 55, 8) + 1
    indices = reduced(rows)[0].indices[0, 0].tolist()
    _, single = by_hand(rows[0, 1:], 3)
    assert indices[3:] == single
    assert all(place // 9 % 3 == 2 and place % 3 == 2 for place in indices[:3])


def test_the_unmerged_form_keeps_those_patches_in_order_of_place():
    rows = normal(1, 55, 8) + 1
    selection = reduced(rows, merge=False)[0]
    assert selection.mix is None
    assert selection.indices[0, 0].tolist() == sorted(reduced(rows)[0].indices[0, 0].tolist())


@pytest.mark.parametrize(("keep", "left"), [("54", 54), ("48", 54), ("47", 46), ("46", 46), ("7", 6), ("6", 6)])
def test_budgets_in_steps_of_a_window(keep, left):
    selection, stage = reduced(normal(1, 55, 8), keep)
    assert stage == Stage("tower", 0, keep=left)
    assert selection.indices.shape == (1, 1, left)
    assert torch.allclose(selection.mix.sum(-1), torch.ones(1, 1, left))


def test_the_papers_budgets():
    kept = [vision().plan(CLIP, Budget(keep))[0].keep for keep in ("192", "128", "64")]
    assert kept == [192, 128, 64]
    assert vision(layer=-1).plan(CLIP, Budget("192")) == (Stage("tower", 22, keep=192),)
    with pytest.raises(UserError, match="give 64 of 576 or more"):
        vision().plan(CLIP, Budget("56"))


def test_without_cls_only_patches_count():
    shape = Shape(54, GRID, has_cls=False)
    assert vision().plan(shape, Budget("47"))[0].keep == 54
    assert vision().plan(shape, Budget("46"))[0].keep == 46


def test_windows_that_do_not_tile_are_refused():
    with pytest.raises(UserError, match="3x3 do not tile 14x14"):
        MustDrop().plan(Shape(196, Grid(14, 14)), Budget("50"))
    assert vision(window="2x7").plan(Shape(196, Grid(14, 14)), Budget("50"))[0].keep == 53


def test_a_threshold_leaves_empty_slots_that_nobody_sees():
    rows = normal(2, 55, 8) + 0.5
    alike = similarity(rows[:, None, 1:], GRID, Grid(3, 3))[:, 0]
    threshold = float(alike.sort(dim=-1).values[:, 2:4].mean())
    selection, stage = reduced(rows, threshold=threshold)
    assert stage == Stage("tower", 0, keep=54, blanks=True)
    for b, merged in enumerate((alike >= threshold).sum(-1).tolist()):
        real = 54 - 8 * merged
        want, _ = by_hand(rows[b, 1:], merged)
        assert (selection.indices[b, 0, real:] == -2).all()
        assert selection.indices[b, 0, :real].min() >= 0
        assert (selection.key_bias[b, 0] == torch.where(torch.arange(54) < real, 0, -1e4)).all()
        assert torch.allclose(after(rows, threshold=threshold)[b, 1 : 1 + real], want, atol=1e-6)


@pytest.mark.parametrize("merge", [True, False])
def test_empty_slots_do_not_change_the_layers_behind(merge):
    """The same three windows by their number and by a threshold, behind layer 0 of two."""
    blocks, shape = tuple(Layer(seed).block() for seed in (1, 2)), Shape(54, GRID, tower_layers=2, tower_last=1)
    start = Sequence(normal(1, 55, 8), 1, 54, torch.arange(54)[None, None])

    def run(reducer, stages, layers):
        return Walk(Stack("tower", blocks), reducer, stages, shape, start).run(layers).hidden

    seen = run(vision(), (), 1)[:, None, 1:]
    threshold = float(similarity(seen, GRID, Grid(3, 3)).flatten().sort().values[2:4].mean())
    forms = vision(merge=merge), vision(merge=merge, threshold=threshold)
    fixed, adaptive = (run(form, form.plan(shape, Budget("30")), 2) for form in forms)
    assert fixed.shape == (1, 31, 8)
    assert torch.allclose(adaptive[:, :31], fixed, atol=1e-5)


def test_equal_windows_merge_by_the_lower_index():
    assert reduced(torch.ones(1, 55, 8), "38")[0].indices[0, 0, :2].tolist() == [20, 23]


def test_batch_equals_one_at_a_time():
    rows = normal(3, 55, 8)
    assert torch.equal(after(rows), in_turn(after, rows))


def test_a_permutation_inside_windows_only_moves_single_patches():
    rows = normal(1, 55, 8) + 1
    upside = torch.arange(54).reshape(2, 3, 9).flip(1).flatten()
    turned = torch.cat([rows[:, :1], rows[:, 1:][:, upside]], 1)
    assert torch.allclose(after(turned)[:, 1:4], after(rows)[:, 1:4], atol=1e-6)


@pytest.mark.parametrize("window", ["3", "3x", "x", "1x1", "0x3", "-1x3", "3x3x3", "²x2"])
def test_a_bad_window_is_one_line(window):
    with pytest.raises(UserError, match="window") as caught:
        method("mustdrop", {"window": window})
    assert "\n" not in str(caught.value)


def deep(layers=(2, 6, 10, 14), counts=(371, 298, 239, 192)):
    """The stages behind the tower's."""
    cuts = (Stage("decoder", layer, keep=keep) for layer, keep in zip(layers, counts, strict=True))
    return *cuts, Stage("decoder", layers[-1], at="kv", since=layers[0])


def test_every_cut_keeps_the_same_share():
    """576 x (1/3)^(1/5) is 462; 14 windows of 9 leave 464."""
    stages = make_plan("mustdrop", MustDrop(), CLIP, Budget("192"))
    assert stages == (Stage("tower", 0, keep=464), Stage("tower", 22), *deep())
    four = make_plan("mustdrop", MustDrop(), replace(CLIP, views=4), Budget("192"))
    assert four == (*stages[:2], *deep(counts=(1485, 1192, 957, 768)))
    assert MustDrop().plan(CLIP, Budget("10"))[0].keep == 256
    assert MustDrop().plan(CLIP, Budget("1"))[0].keep == 168  # of 162, in steps of a window


@pytest.mark.parametrize(
    ("layers", "after"), [(32, (2, 6, 10, 14)), (28, (2, 5, 9, 12)), (4, (0, 1, 2)), (3, (0, 1)), (2, (0,)), (1, ())]
)
def test_the_last_count_always_holds(layers, after):
    cuts = [s for s in MustDrop().plan(replace(CLIP, decoder_layers=layers), Budget("192")) if s.stack == "decoder"]
    assert tuple(stage.layer for stage in cuts[:-1]) == after
    assert all(stage.keep == 192 for stage in cuts[:-1][-1:])
    assert all((stage.since, stage.layer) == (after[0], after[-1]) for stage in cuts[-1:])


def test_all_patches_are_the_dense_model():
    assert MustDrop().plan(CLIP, Budget("100%")) == (Stage("tower", 0, keep=576),)


def test_counts_and_layers_may_be_given():
    reducer = MustDrop(counts="160,100", layers="3,9")
    merge, look, *cuts = make_plan("mustdrop", reducer, CLIP, Budget("192"))
    assert (merge.keep, look, tuple(cuts)) == (192, Stage("tower", 22), deep((3, 9), (160, 100)))
    for wrong in ("160,170", "160", "200,100", "100,0"):
        with pytest.raises(UserError, match="2 counts from 192 down"):
            MustDrop(counts=wrong, layers="3,9").plan(CLIP, Budget("192"))


def test_a_look_needs_a_layer_behind_the_merge():
    alone = replace(CLIP, tower_layers=23)
    with pytest.raises(UserError, match="no tower layer is left"):
        MustDrop(layer=-1).plan(alone, Budget("192"))
    assert MustDrop(layer=-1).plan(CLIP, Budget("192"))[1] == Stage("tower", 22)


def test_the_key_set_is_what_cls_attends_to_in_the_layer_behind():
    maps = {layer: attention(2, 3, 1 + 36, 1 + 36, seed=layer) for layer in (4, 5)}
    taps = map_taps(maps, tower_layers=6, tower_last=4)
    key = MustDrop().select(taps, Stage("tower", 4)).carry["key"][:, 0]
    want = maps[5][:, :, 0, 1:].mean(1).topk(3).indices  # 0.08 * 36 is 2.88
    assert [row.nonzero()[:, 0].tolist() for row in key] == [sorted(row) for row in want.tolist()]
    assert (MustDrop(keep_rate=0.0).select(taps, Stage("tower", 4)).carry["key"] == 0).all()


def asked(ran, start, width):
    """Share and maximum of a span's tokens in the text behind it."""
    rows = ran.attention.mean(0)[start + width :, start : start + width]
    return rows.sum(0) / rows.sum(), rows.amax(0)


def by_loops(decoder, rows, start, width, key, counts, reducer):
    """Layers 0 and 1 are cut behind; states, what is left of the span, and caches."""
    x, left, past = rows, torch.arange(width), []
    alive = [torch.arange(rows.shape[1])]
    for layer in range(decoder.layers):
        past.append(causal(decoder, layer, x, torch.arange(x.shape[1])))  # numbered anew
        x = past[-1].hidden
        alive.append(alive[-1])
        if layer < len(counts):
            share, most = asked(past[-1], start, len(left))
            score = torch.maximum(share / reducer.global_thr, most / reducer.individual_thr)
            kept = (score + 1e4 * key[left]).topk(counts[layer]).indices.sort().values
            left = left[kept]
            rest = torch.cat([torch.arange(start), start + kept, torch.arange(x.shape[1] - 6, x.shape[1])])
            x, alive[-1] = x[:, rest], alive[-1][rest]
    return x, left, past, alive


def test_the_text_drops_layer_by_layer_and_caches_keep_the_rest():
    decoder, rows, start, width = small_decoder(4), normal(1, 30, WIDTH), 4, 20
    key, reducer = torch.zeros(width), MustDrop(global_thr=0.02, individual_thr=0.03)
    key[[3, 11]] = 1
    stages = deep((0, 1), (12, 5))
    played = play(decoder, reducer, stages, rows, start, width, carry={"key": key[None, None]})
    x, left, past, alive = by_loops(decoder, rows, start, width, key, (12, 5), reducer)
    assert {3, 11} <= set(left.tolist())
    assert torch.equal(played.walk.sequence.origin[0, 0], left)
    torch.testing.assert_close(played.hidden, decoder.norm(x))
    assert played.lengths.tolist() == [15] * 4
    following = [cached.next_position[0] for cached in played.caches]
    assert following[3].item() == 15
    for layer, ran in enumerate(past):
        mine = (alive[layer][:, None] == alive[-1]).to(torch.int64).argmax(0)
        ran.key, ran.value = ran.key[:, mine], ran.value[:, mine]
        torch.testing.assert_close(played.caches[layer].key[0], ran.key)
    new = normal(1, 1, WIDTH, seed=5)
    (found,) = played.run([new])
    for layer in range(4):
        new = causal(decoder, layer, new, following[layer], past[layer]).hidden
    torch.testing.assert_close(found, decoder.norm(new))


def test_the_graph_is_the_reducer():
    key = torch.zeros(20)
    key[[3, 11]] = 1
    decoder, stages = small_decoder(3), deep((0, 1), (12, 5))

    def run(rows):
        played = play(decoder, MustDrop(), stages, rows, 4, 20, carry={"key": key[None, None]})
        return {"hidden": played.hidden, "key": played.caches[0].key, "kept": played.walk.sequence.origin}

    exported(run, normal(1, 30, WIDTH))


def test_exactly_the_thresholds_mask_what_nobody_sees_from_then_on():
    decoder, rows, start, width = small_decoder(3), normal(1, 30, WIDTH), 4, 20
    key = torch.zeros(width)
    key[7] = 1
    reducer = MustDrop(mode="exact", global_thr=0.045, individual_thr=0.06, layers="0,1")
    merge, _, *stages = reducer.plan(replace(CLIP, decoder_layers=3), Budget("192"))
    assert merge.keep == 192
    assert stages == [Stage("decoder", 0), Stage("decoder", 1), Stage("decoder", 1, at="kv", since=0)]
    played = play(decoder, reducer, tuple(stages), rows, start, width, carry={"key": key[None, None]})
    x, seen = rows, torch.ones(30) > 0
    for layer in range(3):
        ran = causal(decoder, layer, x, torch.arange(30), seen=seen)
        x = ran.hidden
        if layer < 2:
            share, most = asked(ran, start, width)
            stays = (share >= 0.045) | (most >= 0.06) | (key > 0)
            seen = seen.clone()
            seen[start : start + width] &= stays
            assert played.outputs[f"tokens.{layer}"].item() == seen[start : start + width].sum()
    assert 0 < seen[start : start + width].sum() < played.outputs["tokens.0"] < width
    text = torch.arange(start + width, 30)
    torch.testing.assert_close(played.hidden[:, text], decoder.norm(x)[:, text])
    assert all(torch.equal(cached.bias[0] == 0, seen) for cached in played.caches)


@pytest.mark.parametrize("mode", ["fixed", "exact"])
def test_texts_of_other_lengths_and_other_pictures_do_not_matter(mode):
    """Two sequences of two spans, the second one padded."""
    maps, width, starts = attention(2, 4, 40, 40), 12, (2, 18)
    stage = Stage("decoder", 1, keep=7 if mode == "fixed" else None)
    reducer = MustDrop(mode=mode, global_thr=0.08, individual_thr=0.1)
    shape = Shape(width, Grid(1, width))

    def left(maps, rows):
        batch, seen = len(maps), {1: Seen(attention=maps)}
        key = {"key": torch.zeros(batch, 2, width)}
        found = reducer.select(
            Padded(EagerTaps(starts, width, maps.shape[2], seen, shape, key, batch=batch), rows), stage
        )
        return found.indices if mode == "fixed" else found.carry["alive"]

    together = left(maps, (40, 35))
    assert torch.equal(together[:1], left(maps[:1], (40,)))
    assert torch.equal(together[1:], left(maps[1:, :, :35, :35], (35,)))


class Padded:
    """Taps of which only the first rows are valid."""

    def __init__(self, taps, lengths):
        self.taps, self.lengths = taps, lengths

    def __getattr__(self, name):
        return getattr(self.taps, name)

    @property
    def valid(self):
        return torch.arange(self.taps.length) < torch.tensor(self.lengths)[:, None]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stages": "most"}, "choose from all, vision"),
        ({"mode": "fast"}, "choose from fixed, exact"),
        ({"threshold": "0.8"}, "stages=vision"),
        ({"mode": "exact", "counts": "30,20"}, "takes no counts"),
        ({"counts": "many"}, "no list of numbers"),
        ({"layers": "4,2"}, "do not rise"),
        ({"keep_rate": "2"}, "from 0 to 1"),
        ({"global_thr": "-1"}, "not negative"),
    ],
)
def test_wrong_parameters_are_one_line(wrong, says):
    with pytest.raises(UserError, match=says) as caught:
        method("mustdrop", wrong)
    assert "\n" not in str(caught.value)
