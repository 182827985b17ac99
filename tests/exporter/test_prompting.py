"""Which prefill parts an export has."""

from dataclasses import dataclass, replace

import pytest

from engines.errors import UserError
from exporter.prompting import BUCKETS, Prompting, prompting
from exporter.recipe import Recipe
from exporter.reducer import Grid, Reducer, Shape, Stage

SHAPE = Shape(16, Grid(4, 4), decoder_layers=8)
CUT = Stage("decoder", 2, keep=4)


@dataclass(frozen=True)
class Given(Reducer):
    title = "toy"
    paper = "toy"
    prompt: bool = False
    warm_up: int = 0
    positions: str = "keep"
    stepping: tuple[Stage, ...] = ()

    def plan(self, shape, budget):
        return (Stage("decoder", 2, keep=budget.count(shape.tokens)),)

    def steps(self, shape, budget):
        return self.stepping


def parts(reducer, stages=(CUT,), **recipe):
    return prompting(Recipe(method="toy", keep="25%", **recipe), reducer, SHAPE, stages, SHAPE.tokens)


def test_without_a_cut_in_the_decoder_there_is_one_part_for_all():
    assert parts(Given(), (Stage("tower", 0, keep=8),)) == ()


def test_a_cut_decoder_has_a_prefill_part():
    assert parts(Given(), (Stage("tower", 0, keep=8), CUT)) == (Prompting("prefill", 16, (CUT,)),)


@pytest.mark.parametrize(
    ("reducer", "recipe"),
    [
        (Given(positions="slot"), {}),
        (Given(stepping=(Stage("decoder", 1),)), {}),
        (Given(), {"kv": "static"}),
    ],
)
def test_steps_slots_and_constant_caches_make_two_parts_as_well(reducer, recipe):
    assert parts(reducer, (), **recipe) == (Prompting("prefill", 16, ()),)


def test_spans_that_are_prompts_have_a_part_for_each_length():
    found = parts(Given(prompt=True), (), buckets=(64, 32))
    assert [(each.part, each.tokens, each.whole) for each in found] == [
        ("prefill.32", 32, True),
        ("prefill.64", 64, True),
    ]
    assert [each.stages[0].keep for each in found] == [8, 16]
    assert [each.tokens for each in parts(Given(prompt=True), ())] == list(BUCKETS)


def test_until_the_state_is_full_nothing_is_cut():
    warm, main = parts(Given(warm_up=3))
    assert warm == Prompting("prefill.warm", 16, (replace(CUT, keep=16),))
    assert main == Prompting("prefill", 16, (CUT,))


@pytest.mark.parametrize("buckets", [(0,), (1, 64), (64, 64)])
def test_lengths_that_are_none_are_refused(buckets):
    with pytest.raises(UserError, match=r"--buckets .*: give different prompt lengths"):
        parts(Given(prompt=True), (), buckets=buckets)


def test_lengths_without_need_are_refused():
    with pytest.raises(UserError, match="--buckets: --method toy takes prompts of any length; leave it out"):
        parts(Given(), buckets=(64,))
