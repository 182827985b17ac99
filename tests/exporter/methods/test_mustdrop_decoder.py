"""MustDrop's stages behind the merge: the key set, what the text drops in the decoder, and what caches keep."""

from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.mustdrop import MustDrop
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, exported, map_taps, normal
from tests.exporter.methods.plain_decoder import causal
from tests.exporter.methods.small_decoder import WIDTH, small_decoder
from tools.goldens.decoders import play

CLIP = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32)


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
