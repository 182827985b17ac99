"""Two methods in one export."""

import pytest

from engines.errors import UserError
from exporter.budget import Budget
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method

SHAPE = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32)


def plan(name, params=None, shape=SHAPE):
    return make_plan(name, method(name, params), shape, Budget("100%"))


def test_the_second_cuts_what_the_first_left():
    assert plan("fastervlm:128+fastv:64") == (Stage("tower", 22, keep=128), Stage("decoder", 1, keep=64))


def test_the_second_budget_is_a_share_of_what_the_first_left():
    assert plan("grid:50%+fastv:50%")[-1] == Stage("decoder", 1, keep=144)


def test_all_views_of_a_picture_count_for_the_second():
    shape = Shape(100, Grid(10, 10), tower_layers=4, tower_last=3, decoder_layers=8, views=3)
    assert plan("fastervlm:20+fastv:30", shape=shape)[-1].keep == 30
    with pytest.raises(UserError, match="more than there is"):
        plan("fastervlm:20+fastv:61", shape=shape)


def test_positions_at_the_entry_and_in_the_decoder_are_each_method_s_own():
    both = method("fastervlm:128+fastv:64")
    assert (both.entry, both.positions) == ("renumber", "keep")
    both = method("dart:128+pyramiddrop:64")
    assert (both.entry, both.positions) == ("keep", "renumber")
    assert both.needs == method("dart").needs


def test_parameters_go_to_the_method_that_has_them_or_that_they_name():
    both = method("fastervlm:128+fastv:64", {"k": "3"})
    assert both.second.k == 3
    both = method("visionzip:128+fastv:64", {"fastv.k": "4"})
    assert both.second.k == 4


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fastervlm+fastv:64", "write two methods with their budgets"),
        ("fastervlm:128+", "write two methods with their budgets"),
        ("fastervlm:128+grid:64+fastv:3", "write two methods with their budgets"),
        ("fastervlm:128+fastw:64", "--method fastw: no such method; did you mean fastv"),
    ],
)
def test_what_is_not_two_methods_is_refused(name, says):
    with pytest.raises(UserError, match=says):
        method(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fastv:128+fastv:64", "the first of two methods acts before the decoder"),
        ("fastervlm:128+divprune:64", "the second of two methods acts inside the decoder"),
        ("fastervlm:600+fastv:64", "--keep 600: more than there is"),
        ("fastervlm:128+fastv:129", "--keep 129: more than there is"),
    ],
)
def test_plans_that_do_not_fit_together_are_refused(name, says):
    with pytest.raises(UserError, match=says):
        plan(name)


def test_parameters_of_neither_are_refused():
    with pytest.raises(UserError, match="--param x: fastv has no such parameter"):
        method("fastervlm:128+fastv:64", {"x": "3"})
