"""Schedules at other depths and budgets."""

from itertools import pairwise

import pytest

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.depths import at_depth, shrunk
from exporter.maths.staircase import staircase
from exporter.reducer import Grid, Shape

OWN, RATIOS = (8, 16, 24), (0.5, 0.25, 0.125)


@pytest.mark.parametrize(
    ("has", "layers"),
    [(32, (7, 15, 23)), (40, (9, 19, 29)), (28, (6, 13, 20)), (4, (0, 1, 2)), (3, (0, 1)), (2, (0,)), (1, ())],
)
def test_layers_lie_at_the_same_share_of_the_depth(has, layers):
    assert at_depth((7, 15, 23), 32, has) == layers


@pytest.mark.parametrize("has", range(1, 90))
def test_layers_rise_and_one_is_left_to_gain_by_them(has):
    found = at_depth((2, 6, 15, 30), 32, has)
    assert all(a < b for a, b in pairwise(found))
    assert all(0 <= layer <= has - 2 for layer in found)
    assert len(found) == min(4, has - 1)


def test_the_authors_keep_gives_the_authors_counts():
    assert shrunk(576, 72, RATIOS) == (288, 144, 72)
    assert shrunk(576, 72, (0.875, 0.625, 0.125)) == (504, 360, 72)


@pytest.mark.parametrize("keep", [1, 3, 71, 73, 200, 575, 576])
def test_other_budgets_end_at_the_budget(keep):
    found = shrunk(576, keep, RATIOS)
    assert found[-1] == keep
    assert all(a >= b for a, b in pairwise((576, *found)))


def shape(tokens=576, layers=32):
    return Shape(tokens, Grid(1, tokens), decoder_layers=layers)


def cut(keep, layers="", ratios="", **given):
    return staircase(layers, ratios, OWN, RATIOS).cuts("x", shape(**given), Budget(keep))


def test_cuts_are_the_authors():
    assert cut("72") == {7: 288, 15: 144, 23: 72}
    assert cut("100%") == {}


def test_a_shallow_decoder_keeps_the_last_cuts():
    assert staircase("", "", OWN, RATIOS).cuts("x", shape(layers=3), Budget("72")) == {0: 144, 1: 72}
    assert staircase("", "", OWN, RATIOS).cuts("x", shape(layers=2), Budget("72")) == {0: 72}


def test_ratios_win_over_the_budget_and_layers_over_the_depth():
    assert cut("9", ratios="1.0,.5,0.3", tokens=49) == {15: 24, 23: 14}
    assert staircase("1,2,4", "", OWN, RATIOS).cuts("x", shape(layers=5), Budget("72")) == {0: 288, 1: 144, 3: 72}
    assert cut("576", ratios="1,1,1") == {}
    assert cut("1", ratios="0.1,0.1,0.1", tokens=5) == {7: 1}


def test_cuts_that_drop_nothing_are_left_out():
    assert cut("575") == {7: 575}


@pytest.mark.parametrize(("layers", "depth"), [("3,5,32", 32), ("1,2,3", 3), ("", 1)])
def test_layers_that_are_not_there_are_one_line(layers, depth):
    with pytest.raises(UserError, match="cannot cut behind layers") as caught:
        staircase(layers, "", OWN, RATIOS).cuts("x", shape(layers=depth), Budget("72"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "ratios"),
    [
        ("0,1,2", ""),
        ("3,2,9", ""),
        ("4", ""),
        ("a", ""),
        ("", "0.5"),
        ("", "0.2,0.5,0.1"),
        ("", "2,1,1"),
        ("", "0,0,0"),
    ],
)
def test_lists_that_make_no_sense_are_refused(layers, ratios):
    with pytest.raises(ValueError, match=r"layers|ratios"):
        staircase(layers, ratios, OWN, RATIOS)
