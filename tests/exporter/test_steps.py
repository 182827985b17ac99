"""New rows over cached ones: against whole sequences, one at a time and without padding."""

from dataclasses import dataclass, field

import pytest
import torch

from exporter.caches import Group
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage
from exporter.stack import Stack
from exporter.steps import Step
from tests.exporter.tiny_stack import WIDTH, Layer, norm, rotary, turned

LAYERS = (Layer(1), Layer(2))
STACK = Stack("decoder", tuple(layer.block() for layer in LAYERS), rotary, turn=turned)
LENGTHS, PAST, NEW = (6, 4), 6, 3  # tokens of each cache, slots of both, new rows
GROUP = Group(0, 2, 0)


@dataclass(frozen=True)
class Scripted(Reducer):
    """Each stage has a function of its own from taps to a Selection."""

    script: dict = field(default_factory=dict)

    def decode(self, taps, stage):
        return self.script[stage](taps, stage)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alone(rows):
    """One sequence `[1,n,C]` through both layers: rows, keys as they are cached, rotated or not, and values."""
    length, caches = rows.shape[1], []
    places = torch.arange(length)[None]
    mask = torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    for layer in LAYERS:
        _, bare, _ = layer.qkv(norm(rows), None)
        rows, key, value = layer.plain(rows, mask, rotary(rows, places))
        caches.append((key, bare, value))
    return rows, caches


@dataclass
class Talk:
    """Two sequences whose caches are filled to different lengths, and the new rows of each."""

    slotted: bool = False
    fresh: tuple = (NEW, NEW)  # valid ones among the new rows

    def __post_init__(self):
        self.rows = [drawn(1, length + NEW, WIDTH, seed=length) for length in LENGTHS]
        self.hidden = torch.cat([rows[:, -NEW:] for rows in self.rows])
        valid = [
            [1] * n + [0] * (PAST - n) + [1] * f + [0] * (NEW - f) for n, f in zip(LENGTHS, self.fresh, strict=True)
        ]
        self.slots = torch.tensor(valid) > 0
        self.positions = None if self.slotted else torch.tensor(LENGTHS)[:, None] + torch.arange(NEW)
        caches = [alone(rows[:, :-NEW])[1] for rows in self.rows]
        self.past = {
            layer: tuple(self._filled(caches, layer, kind) for kind in (int(self.slotted), 2)) for layer in (0, 1)
        }

    def _filled(self, caches, layer, kind):
        full = [
            torch.nn.functional.pad(each[layer][kind], (0, 0, 0, PAST - n), value=7.0)
            for each, n in zip(caches, LENGTHS, strict=True)
        ]
        return torch.cat(full)

    def step(self, stages=(), script=None, **more):
        reducer = Scripted(script=script or {})
        step = Step(STACK, reducer, stages, Shape(3, Grid(1, 3)), self.hidden, **more)
        step.run(GROUP, self.slots, self.positions, None, self.past)
        return step


@pytest.mark.parametrize("slotted", [False, True])
def test_without_stages_rows_go_on_where_the_cache_ends(slotted):
    talk = Talk(slotted)
    step = talk.step()
    for number, rows in enumerate(talk.rows):
        hidden, caches = alone(rows)
        torch.testing.assert_close(step.hidden[number], hidden[0, -NEW:])
        for layer, (turned_key, bare, value) in enumerate(caches):
            there = talk.slots[number]
            key, found = (each[number][:, there] for each in step.present[layer])
            torch.testing.assert_close(key, (bare if slotted else turned_key)[0])
            torch.testing.assert_close(found, value[0])


def test_slots_are_positions_whatever_was_there_before():
    """A cache without some of its entries is that of a shorter sequence, turned by the places that are left."""
    talk = Talk(slotted=True)
    left = torch.tensor([0, 2, 5])
    talk.past = {
        0: tuple(each[:1, :, left] for each in talk.past[0]),
        1: tuple(each[:1, :, left] for each in talk.past[1]),
    }
    talk.hidden, talk.slots = talk.hidden[:1], torch.ones(1, 3 + NEW) > 0
    got = talk.step().hidden
    hidden, places = talk.hidden, torch.arange(3 + NEW)[None]
    for layer, plain in enumerate(LAYERS):
        q, fresh, value = plain.qkv(norm(hidden), None)
        rope = rotary(hidden, places)
        tables = tuple(table[:, 3:] for table in rope)
        keys = turned(torch.cat([talk.past[layer][0], fresh], 2), rope)
        future = torch.ones(NEW, 3 + NEW).triu(4).bool()
        logits = (turned(q, tables) @ keys.transpose(2, 3) * 0.5).masked_fill(future, -torch.inf)
        out = logits.softmax(-1) @ torch.cat([talk.past[layer][1], value], 2)
        hidden = hidden + out.transpose(1, 2).flatten(2)
        hidden = hidden + plain.mlp(norm(hidden))
    torch.testing.assert_close(got, hidden)


def test_a_cache_is_kept_at_its_size_by_key_head():
    stage, talk = Stage("decoder", 1, "kv", keep=5), Talk()
    indices = torch.tensor([[[0, 1, 2, 7, 8], [3, 4, 5, 6, 8]], [[0, 3, 6, -2, -2], [1, 6, 8, -2, -2]]])
    step = talk.step((stage,), {stage: lambda taps, _: Selection(indices)})
    plain = talk.step()
    assert step.kept.keys() == {1}
    assert step.kept[1].tolist() == [[True] * 5, [True, True, True, False, False]]
    for got, every in zip(step.present[1], plain.present[1], strict=True):
        assert got.shape[2] == 5
        for batch, head, places in ((0, 0, [0, 1, 2, 7, 8]), (0, 1, [3, 4, 5, 6, 8]), (1, 1, [1, 6, 8])):
            assert torch.equal(got[batch, head, : len(places)], every[batch, head, places])
    assert torch.equal(step.present[0][0], plain.present[0][0])
    assert torch.equal(step.hidden, plain.hidden)


def test_an_empty_slot_is_none_that_anybody_sees():
    """What is left of the shorter sequence goes on as if the cache had no more slots than that."""
    stage, talk = Stage("decoder", 1, "kv", keep=4), Talk()
    places = torch.tensor([[0, 2, 6, 7], [1, 3, 8, -2]])
    both = Stage("decoder", 0, "kv", keep=4), stage
    script = dict.fromkeys(both, lambda taps, _: Selection(places[:, None].expand(-1, 2, -1)))
    step = talk.step(both, script)
    row, where = drawn(2, 1, WIDTH, seed=9), torch.tensor([[20], [30]])
    after = Step(STACK, Scripted(), (), Shape(3, Grid(1, 3)), row)
    after.run(GROUP, torch.cat([step.kept[0], torch.ones(2, 1) > 0], 1), where, None, step.present)
    for number, count in ((0, 4), (1, 3)):
        one = Step(STACK, Scripted(), (), Shape(3, Grid(1, 3)), row[number : number + 1])
        past = {n: tuple(each[number : number + 1, :, :count] for each in step.present[n]) for n in (0, 1)}
        one.run(GROUP, torch.ones(1, count + 1) > 0, where[number : number + 1], None, past)
        torch.testing.assert_close(after.hidden[number], one.hidden[0])


def test_rows_are_the_attention_of_the_new_tokens():
    stage, seen = Stage("decoder", 1), {}

    def look(taps, stage):
        every = torch.arange(NEW).expand(2, -1)
        seen.update(rows=taps.rows(1, every), last=taps.rows(1, "last"), logits=taps.rows(1, "last", logits=True))
        seen.update(qkv=taps.qkv(1), valid=taps.valid)
        return Selection()

    talk = Talk(fresh=(3, 2))
    talk.step((stage,), {stage: look})
    q, k, _ = seen["qkv"]
    logits = q @ k.transpose(2, 3) * 0.5
    for number, last in ((0, 2), (1, 1)):
        there = talk.slots[number] & (torch.arange(PAST + NEW) <= PAST + last)
        want = logits[number, :, last].masked_fill(~there, -torch.inf).softmax(-1)
        torch.testing.assert_close(seen["rows"][number, :, last], want)
        torch.testing.assert_close(seen["last"][number, :, 0], want)
        torch.testing.assert_close(seen["logits"][number, :, 0, there], logits[number, :, last, there])
    assert (seen["logits"][~talk.slots[:, None, None].expand(-1, 2, -1, -1)] < -1e38).all()
    assert torch.equal(seen["valid"], talk.slots)


def test_state_and_outputs_of_a_step():
    stages = (Stage("decoder", 0), Stage("decoder", 1))
    script = {
        stages[0]: lambda taps, _: Selection(state={"sum": taps.state["sum"] + 1}),
        stages[1]: lambda taps, _: Selection(outputs={"seen": taps.state["sum"]}),
    }
    step = Talk().step(stages, script, state={"sum": torch.zeros(2)})
    assert step.following["sum"].tolist() == [1, 1]
    assert step.outputs["seen"].tolist() == [0, 0]


def test_a_bias_by_token_holds_for_the_layers_behind():
    stage, talk, seen = Stage("decoder", 0), Talk(), {}
    span = torch.tensor([[[1, -1, 3]], [[0, 2, -1]]])
    bias = torch.tensor([[[-9.0, 5.0, 2.0]], [[1.0, -9.0, 5.0]]])

    def look(taps, stage):
        seen["span"] = taps.span_of(taps.rows(0, "last"))
        seen["rows"] = taps.rows(0, "last")
        return Selection(key_bias=bias)

    step = talk.step((stage,), {stage: look}, span=span)
    wanted = torch.zeros(2, PAST + NEW)
    wanted[0, 1], wanted[0, 3], wanted[1, 0], wanted[1, 2] = -9.0, 2.0, 1.0, -9.0
    assert torch.equal(step.bias, wanted)
    assert seen["span"].shape == (2, 1, 2, 1, 3)
    assert torch.equal(
        seen["span"][0, 0, 0, 0], torch.stack([seen["rows"][0, 0, 0, 1], torch.zeros(()), seen["rows"][0, 0, 0, 3]])
    )
    plain = talk.step()
    assert torch.equal(step.present[0][0], plain.present[0][0])
    assert not torch.allclose(step.hidden, plain.hidden)
