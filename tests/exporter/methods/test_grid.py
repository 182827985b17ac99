"""Grid: patches at even distances."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.grid import EvenGrid, crossings
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, normal, taps

CLIP = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)


def kept(reducer, keep, patches=576, batch=1, **more):
    return reducer.select(taps({}, patches=patches, batch=batch, **more), Stage("tower", 0, keep=keep)).indices


@pytest.mark.parametrize("keep", [1, 64, 100, 575, 576])
def test_linear_keeps_every_budget_in_order_for_everybody(keep):
    assert EvenGrid("linear").plan(CLIP, Budget(str(keep))) == (Stage("tower", 22, keep=keep),)
    chosen = kept(EvenGrid("linear"), keep, batch=3)
    assert chosen.shape == (3, 1, keep)
    assert (chosen.diff(dim=-1) > 0).all()
    assert 0 <= chosen.min() <= chosen.max() < 576


@pytest.mark.parametrize(
    ("keep", "lines"), [(1, (1, 1)), (64, (8, 8)), (128, (16, 8)), (144, (12, 12)), (192, (16, 12)), (576, (24, 24))]
)
def test_a_grid_of_as_many_crossings(keep, lines):
    assert crossings(Grid(24, 24), keep) == lines
    assert EvenGrid().plan(CLIP, Budget(str(keep))) == (Stage("tower", 22, keep=keep),)


def test_the_plan_holds_the_number_that_a_grid_can_keep():
    assert EvenGrid().plan(CLIP, Budget("58")) == (Stage("tower", 22, keep=56),)  # 8 x 7 is nearer than 10 x 6
    assert crossings(Grid(24, 24), 58) == (8, 7)
    assert crossings(Grid(18, 26), 104) == (8, 13)
    assert crossings(Grid(1, 16), 4) == (1, 8)
    for keep in range(1, 145):
        found = crossings(Grid(9, 16), keep)
        assert crossings(Grid(9, 16), found.rows * found.cols) == found


def test_rows_and_columns_lie_in_the_middle_of_their_share():
    chosen = kept(EvenGrid(), 64)[0, 0]
    lines = [1, 4, 7, 10, 13, 16, 19, 22]
    assert chosen.tolist() == [row * 24 + col for row in lines for col in lines]
    rows = sorted(set((kept(EvenGrid(), 192)[0, 0] // 24).tolist()))
    assert rows[:4] == [0, 2, 3, 5]
    assert kept(EvenGrid("linear"), 3, patches=10, grid=(2, 5)).flatten().tolist() == [1, 5, 8]


def test_it_is_a_constant_of_the_graph():
    chosen, hidden = kept(EvenGrid(), 64)[0, 0], normal(1, 576, 3)
    run = lambda hidden: hidden[:, kept(EvenGrid(), 64)[0, 0]]  # noqa: E731
    assert torch.equal(exported(run, hidden), hidden[:, chosen])


def test_unknown_modes_are_refused():
    with pytest.raises(UserError, match="mode hexagonal is neither uniform nor linear"):
        method("grid", {"mode": "hexagonal"})
