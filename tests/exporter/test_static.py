"""Caches of constant length: a step over them is the step over growing ones, wherever the rows were written."""

from dataclasses import dataclass, field

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.caches import Group
from exporter.parts.static import capacity
from exporter.prompting import prompting
from exporter.recipe import Recipe
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage
from exporter.stack import Stack
from exporter.static_steps import StaticStep
from exporter.steps import Step
from tests.exporter.tiny_stack import WIDTH, Layer, rotary, turned
from tests.exporter.toy_exports import toy

STACK = Stack("decoder", tuple(Layer(seed).block() for seed in (1, 2)), rotary, turn=turned)
PAST, NEW, SLOTS, GROUP, SHAPE = 6, 3, 14, Group(0, 2, 3), Shape(3, Grid(1, 3))


@dataclass(frozen=True)
class Scripted(Reducer):
    """One function for every stage."""

    act: object = None

    def decode(self, taps, stage):
        return self.act(taps, stage)


@dataclass
class Both:
    """Two sequences with holes in their caches and padding among the new rows, in both forms of cache."""

    bias: bool = False
    where: tuple = (0, 1, 3, 4, 5, 8, 9, 11, 12)  # of every row in the constant cache
    steps: list = field(default_factory=list)

    def run(self, act=None, stages=()):
        draw = torch.Generator().manual_seed(3)
        hidden = torch.randn(2, NEW, WIDTH, generator=draw)
        valid = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 1, 1, 0]]) > 0
        positions = torch.tensor([[5, 6, 7], [3, 4, 5]])
        bias = torch.randn(2, PAST + NEW, generator=draw) if self.bias else None
        past = {n: tuple(torch.randn(2, 2, PAST, 4, generator=draw) for _ in range(2)) for n in (0, 1)}
        span, state = torch.tensor([[[1, -1, 3]], [[0, 3, -1]]]), {"sum": torch.ones(2)}
        where = torch.tensor(self.where)
        made = []
        for kind in (Step, StaticStep):
            step = kind(STACK, Scripted(act), tuple(stages), SHAPE, hidden, state=state, span=span)
            if kind is StaticStep:
                step.places = where[PAST:].expand(2, -1)
                valid, bias = (each if each is None else self._wide(each, where, 1) for each in (valid, bias))
                past = {n: tuple(self._wide(kv, where, 2) for kv in pair) for n, pair in past.items()}
                step.span = torch.where(span >= 0, where[span.clamp(min=0)], -1)
            step.run(GROUP, valid, positions, bias, past)
            made.append(step)
        return made

    @staticmethod
    def _wide(values, where, axis):
        """Values by slot in the constant cache; those that no row was written to hold rubbish, or nothing."""
        shape = [SLOTS if number == axis else size for number, size in enumerate(values.shape)]
        wide = torch.full(shape, 0 if axis == 1 else 77, dtype=values.dtype)
        return wide.index_copy(axis, where[: values.shape[axis]], values)


def same(grown, static, where):
    torch.testing.assert_close(static.hidden, grown.hidden)
    for layer, pair in grown.present.items():
        for got, want in zip(static.present[layer], pair, strict=True):
            assert got.shape[2] == SLOTS
            torch.testing.assert_close(got[:, :, list(where)], want)


@pytest.mark.parametrize("bias", [False, True])
def test_rows_are_written_and_attend_as_if_they_stood_behind(bias):
    both = Both(bias=bias)
    same(*both.run(), both.where)


@pytest.mark.parametrize("bias", [False, True])
def test_reducers_look_at_a_cache_that_grows(bias):
    """The new rows are last among the slots, and what is found by token holds for the layers behind."""
    seen = []

    def look(taps, stage):
        new = taps.qkv(stage.layer).q.shape[2]
        fresh = taps.valid[:, taps.valid.shape[1] - new :]
        places = torch.arange(taps.valid.shape[1] - new, taps.valid.shape[1]).expand(2, -1)
        found = taps.span_of(taps.rows(stage.layer, "last"))[:, :, :, 0].mean(2)
        every = taps.rows(stage.layer, places)
        seen.append((fresh, found, every.sum((1, 2)).topk(4).values))
        return Selection(key_bias=5.0 * found, state={"sum": taps.state["sum"] + found.sum((1, 2))})

    both = Both(bias=bias)
    grown, static = both.run(look, (Stage("decoder", 0), Stage("decoder", 1)))
    same(grown, static, both.where)
    for one, other in zip(seen[:2], seen[2:], strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(static.following["sum"], grown.following["sum"])
    assert static.bias.shape == (2, SLOTS)


def test_a_group_needs_the_slots_that_are_left_of_the_longest_prompt():
    cut = (Group(0, 2, 8), Group(2, 3, 3), Group(3, 4, 0))
    assert capacity([(8, 2, cut)], 100) == (100, 90, 84)
    assert capacity([(8, 2, cut), (8, 2, tuple(Group(g.first, g.end, 8) for g in cut))], 100) == (100, 100, 100)
    assert capacity([(8, 1, (Group(0, 1, 8), Group(1, 2, 8, fixed=24)))], 100) == (100, 124)
    short, long = (Group(0, 1, 32), Group(1, 2, 16)), (Group(0, 1, 64), Group(1, 2, 32))
    assert capacity([(32, 1, short), (64, 1, long)], 100) == (100, 100 - 16)


@dataclass(frozen=True)
class Driving(Reducer):
    positions: str = "keep"
    at: str = "kv"
    prompt: bool = False

    def plan(self, shape, budget):
        return ()

    def steps(self, shape, budget):
        return (Stage("decoder", 0, self.at, keep=4 if self.at == "kv" else None),)


@pytest.mark.parametrize(
    "reducer", [Driving(), Driving(prompt=True), Driving(positions="slot", at="after"), Driving(at="after")]
)
def test_methods_that_drive_entries_out_are_refused(reducer):
    recipe = Recipe(method="toy", keep=Budget("4").text, kv="static")
    if reducer == Driving(at="after"):
        assert prompting(recipe, reducer, SHAPE, (), 3)
        return
    with pytest.raises(UserError, match="--kv static: --method toy drives entries out of its caches"):
        prompting(recipe, reducer, SHAPE, (), 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.getbasetemp()


def test_a_cut_decoder_with_static_caches(folder):
    """Parity, which is greedy tokens too, is that of the form that grows; no axis of the graph is a cache's."""
    contract = toy("carrier", folder, kv="static", max_length=256).contract
    assert contract["kv"] == {"form": "static", "capacity": [256, 240, 224]}
    decode = contract["parts"]["decode"]
    shapes = {port["name"]: list(port["shape"]) for port in (*decode["inputs"], *decode["outputs"])}
    assert {size for shape in shapes.values() for size in shape if isinstance(size, str)} == {"batch", "tokens"}
    assert shapes["slots.1"] == ["batch", "tokens"]
    assert shapes["past_key_values.2.key"] == shapes["present.2.key"] == ["batch", 5, 240, 32]
    assert decode["operators"]["ScatterElements"] == 8


def test_steps_that_look_do_so_in_static_caches(folder):
    contract = toy("chooser", folder, kv="static", max_length=256).contract
    assert contract["kv"]["capacity"] == [256, 144]
    assert "state.span_slots" in [port["name"] for port in contract["parts"]["decode"]["inputs"]]
