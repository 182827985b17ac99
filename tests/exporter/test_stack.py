from dataclasses import replace

import pytest
import torch

from exporter.attention import Tape
from exporter.caches import Group, groups_of
from exporter.reducer import Selection, Stage
from tests.exporter.tiny_stack import Tiny, encoded, norm, prompts, rotary

LOWEST = torch.finfo(torch.float32).min


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def causal(valid):
    seen = torch.ones(valid.shape[1], valid.shape[1]).tril().bool() & valid[:, None]
    return torch.zeros(seen.shape).masked_fill(~seen, LOWEST)[:, None]


def plain(tiny, hidden, mask=None, rope=None, layers=(0, 1)):
    """Layers one after the other without any walk: rows, keys and values."""
    caches = []
    for layer in layers:
        hidden, *cache = tiny.layers[layer].plain(hidden, mask, rope)
        caches.append(cache)
    return hidden, caches


def test_without_stages_it_is_the_layers_one_after_the_other():
    before = prompts()
    tiny = Tiny(sequence=before)
    walk = tiny.run()
    want, caches = plain(tiny, before.hidden, causal(before.valid), rotary(before.hidden, before.positions))
    torch.testing.assert_close(walk.sequence.hidden, want)
    torch.testing.assert_close([[cached.key, cached.value] for cached in walk.caches], caches)
    assert [cached.ran for cached in walk.caches] == [4, 4]
    assert groups_of(walk.caches) == (Group(0, 2, 4),)
    assert walk.start is before


def test_an_encoder_has_no_mask_and_may_stop_early():
    before = encoded()
    tiny = Tiny(sequence=before, name="tower", turn=False)
    torch.testing.assert_close(tiny.run(1).sequence.hidden, plain(tiny, before.hidden, layers=(0,))[0])
    assert tiny.layers[0].calls == [(None, None)]
    assert tiny.layers[1].calls == []


def test_stages_of_other_stacks_are_not_for_this_one():
    stages = (Stage("tower", -1, keep=1), Stage("projected", -1, keep=1), Stage("decoder", 5, keep=1))
    assert Tiny(*stages, sequence=prompts()).run().sequence.width == 4


@pytest.mark.parametrize("positions", ["renumber", "keep"])
def test_after_a_cut_the_layers_run_on_what_is_left(positions):
    before = prompts()
    tiny = Tiny(Stage("decoder", -1, keep=3), Stage("decoder", 0, keep=1), sequence=before, positions=positions)
    walk = tiny.run()
    left = [[0, 1, 2, 3, 5, 6, 7], [0, 1, 2, 3, 4, 6, 7]], [[0, 1, 4, 5, 6], [0, 1, 2, 5, 6]]
    hidden, valid, places, sizes = before.hidden, before.valid, before.positions, []
    for layer, index in enumerate(torch.tensor(rows) for rows in left):
        hidden = hidden.gather(1, index[..., None].expand(-1, -1, 8))
        valid = valid.gather(1, index)
        places = torch.arange(index.shape[1]).expand(2, -1) if positions == "renumber" else places.gather(1, index)
        hidden, [cache] = plain(tiny, hidden, causal(valid), rotary(hidden, places), layers=(layer,))
        torch.testing.assert_close([walk.caches[layer].key, walk.caches[layer].value], cache)
        sizes.append(index.shape[1])
    torch.testing.assert_close(walk.sequence.hidden, hidden)
    assert [cached.key.shape[2] for cached in walk.caches] == sizes
    assert groups_of(walk.caches) == (Group(0, 1, 3), Group(1, 2, 1))
    assert walk.sequence.origin.tolist() == [[[0]], [[0]]]


def test_several_stages_behind_one_layer_act_in_order():
    stages = (Stage("decoder", 0, keep=3), Stage("decoder", 0, keep=2))
    script = {stages[1]: lambda taps, stage: Selection(torch.tensor([[[0, 2]], [[1, 2]]]))}
    walk = Tiny(*stages, sequence=prompts(), script=script).run()
    assert walk.sequence.origin.tolist() == [[[0, 2]], [[1, 2]]]
    assert groups_of(walk.caches) == (Group(0, 1, 4), Group(1, 2, 2))


def test_every_point_of_a_layer_is_there():
    seen = {}

    def look(taps, stage):
        points = ("in", "attention_in", "attention_out", "mlp_in", "mlp_out", "out")
        seen.update({point: taps.hidden(0, point) for point in points})
        return Selection()

    before, stage = encoded(), Stage("tower", 0)
    tiny = Tiny(stage, sequence=before, script={stage: look}, name="tower", turn=False)
    tiny.run(1)
    middle = seen["in"] + seen["attention_out"]
    assert seen["in"] is before.hidden
    torch.testing.assert_close(seen["attention_in"], norm(before.hidden))
    torch.testing.assert_close(seen["mlp_in"], norm(middle))
    torch.testing.assert_close(seen["mlp_out"], tiny.layers[0].mlp(norm(middle)))
    torch.testing.assert_close(seen["out"], middle + seen["mlp_out"])


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_qkv_of_the_layer_that_ran_and_of_the_next(layer, rope):
    found, before, stage = [], prompts(), Stage("decoder", 0)
    tiny = Tiny(stage, sequence=before, script={stage: lambda taps, _: found.append(tap(taps)) or Selection()})

    def tap(taps):
        return list(taps.qkv(layer, rope=rope))

    tiny.run()
    tables = rotary(before.hidden, before.positions)
    entered = (before.hidden, plain(tiny, before.hidden, causal(before.valid), tables, layers=(0,))[0])[layer]
    torch.testing.assert_close(found, [list(tiny.layers[layer].qkv(norm(entered), tables if rope else None))])


STALE = {
    "hidden": lambda taps: taps.hidden(-1),
    "rows": lambda taps: taps.rows(0, "last"),
    "column sum": lambda taps: taps.column_sum(0),
    "before rotation": lambda taps: taps.qkv(0, rope=False),
}


@pytest.mark.parametrize("ask", STALE.values(), ids=STALE.keys())
def test_layers_before_the_last_cut_are_refused(ask):
    stages = (Stage("decoder", 0, keep=3), Stage("decoder", 1))
    script = {stages[1]: lambda taps, _: ask(taps)}
    with pytest.raises(ValueError, match=r"carry (its )?scores instead"):
        Tiny(*stages, sequence=prompts(), script=script).run()


def test_only_the_layer_about_to_run_can_be_seen_ahead():
    stage = Stage("decoder", -1)
    with pytest.raises(ValueError, match="layer 1 ran before the last cut or has not run"):
        Tiny(stage, sequence=prompts(), script={stage: lambda taps, _: taps.qkv(1)}).run()


def test_after_a_cut_only_the_cut_rows_are_there():
    stages, seen = (Stage("decoder", 0, keep=3), Stage("decoder", 0)), []
    script = {stages[1]: lambda taps, _: seen.append((taps.hidden(0), taps.qkv(1).k, taps.valid)) or Selection()}
    walk = Tiny(*stages, sequence=prompts(), script=script).run()
    [(hidden, key, valid)] = seen
    assert hidden is walk.caches[1].sequence.hidden
    torch.testing.assert_close(key, walk.caches[1].key)
    assert valid is walk.caches[1].sequence.valid


def test_observing_keeps_the_tapes_and_hands_carry_and_outputs_on():
    stages, asked = (Stage("decoder", 0), Stage("decoder", 1, keep=2)), []

    def observe(taps, stage):
        scores = taps.span_of(taps.rows(0, "last"))[:, :, :, 0].mean(2)
        return Selection(carry={"seen": scores}, outputs={"first": scores})

    def choose(taps, stage):
        asked.append((taps.carry["seen"], taps.rows(0, "last")))
        return Selection(torch.tensor([[[1, 3]], [[0, 2]]]), outputs={"second": taps.carry["seen"] * 2})

    walk = Tiny(*stages, sequence=prompts(), script=dict(zip(stages, (observe, choose), strict=True))).run()
    [(seen, rows)] = asked
    assert walk.outputs["first"] is seen
    assert rows.shape == (2, 2, 1, 8)
    assert torch.equal(walk.outputs["second"], seen * 2)
    assert torch.equal(walk.sequence.carry["seen"], seen.gather(2, walk.sequence.origin))
    assert groups_of(walk.caches) == (Group(0, 2, 4),)


def biased(taps, stage):
    return Selection(key_bias=torch.tensor([[[0.0, -9, 3, 1]], [[2, 0, 0, -9]]]))


@pytest.mark.parametrize("start", [encoded, prompts])
def test_a_key_bias_changes_the_layers_behind_it(start):
    before, stage = start(), Stage("decoder", 0)
    tiny = Tiny(stage, sequence=before, script={stage: biased})
    walk = tiny.run()
    tables = None if before.positions is None else rotary(before.hidden, before.positions)
    mask = torch.zeros(1, 1, 1, 1) if before.valid is None else causal(before.valid)
    added = torch.zeros(before.hidden.shape[:2]).scatter(1, before.span[:, 0], biased(None, None).key_bias[:, 0])
    middle, _ = plain(tiny, before.hidden, mask, tables, layers=(0,))
    want, _ = plain(tiny, middle, mask + added[:, None, None], tables, layers=(1,))
    torch.testing.assert_close(walk.sequence.hidden, want)
    assert tiny.layers[1].calls[0][0].shape[2] == before.hidden.shape[1]
    assert groups_of(walk.caches) == (Group(0, 1, 4), Group(1, 2, 4))


def test_a_key_bias_makes_earlier_layers_stale():
    stages = (Stage("decoder", 0), Stage("decoder", 1))
    script = {stages[0]: biased, stages[1]: lambda taps, _: taps.rows(0, "last")}
    with pytest.raises(ValueError, match="carry scores instead"):
        Tiny(*stages, sequence=prompts(), script=script).run()


def test_a_cut_in_the_middle_of_a_layer_spares_its_mlp():
    before = encoded()
    stages = (Stage("tower", 0, "mid", keep=2),)
    looked = {}

    def act(taps, stage):
        looked["middle"], looked["keys"] = taps.hidden(0, "mid"), taps.qkv(0).k
        return Selection(torch.tensor([[[0, 2]], [[1, 3]]]))

    tiny = Tiny(*stages, sequence=before, script={stages[0]: act}, name="tower", turn=False)
    got = tiny.run().sequence.hidden
    layer, rows = tiny.layers[0], torch.tensor([[0, 1, 3], [0, 2, 4]])
    middle = before.hidden + layer.attention(norm(before.hidden), None, None, Tape())
    torch.testing.assert_close(looked["middle"], middle)
    assert looked["keys"].shape[2] == 5
    left = middle.gather(1, rows[..., None].expand(-1, -1, middle.shape[2]))
    left = left + layer.mlp(norm(left))
    torch.testing.assert_close(got, plain(tiny, left, layers=(1,))[0])


def test_the_layer_about_to_run_shows_all_its_points():
    stage, looked = Stage("tower", 0, keep=3), {}

    def act(taps, stage):
        looked.update({point: taps.hidden(1, point) for point in ("attention_out", "out")})
        return Selection(torch.arange(3).expand(2, 1, -1))

    before = encoded()
    tiny = Tiny(stage, sequence=before, script={stage: act}, name="tower", turn=False)
    tiny.run(1)
    first = plain(tiny, before.hidden, layers=(0,))[0]
    torch.testing.assert_close(looked["out"], plain(tiny, first, layers=(1,))[0])
    torch.testing.assert_close(looked["attention_out"], tiny.layers[1].attention(norm(first), None, None, Tape()))


def test_a_window_limits_what_the_rows_of_a_cut_sequence_see():
    before = encoded()
    tiny = Tiny(sequence=before, name="tower", turn=False)
    seen = (torch.arange(5) // 2)[:, None] == torch.arange(5) // 2
    windows = {0: seen.expand(2, 1, -1, -1), 1: None}
    tiny.walk.stack = replace(tiny.walk.stack, window=lambda layer, sequence: windows[layer])
    mask = torch.zeros(2, 1, 5, 5).masked_fill(~seen, LOWEST)
    first = plain(tiny, before.hidden, mask, layers=(0,))[0]
    torch.testing.assert_close(tiny.run().sequence.hidden, plain(tiny, first, layers=(1,))[0])
