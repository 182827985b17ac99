"""DivPrune: farthest points."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.divprune import DivPrune, farthest
from exporter.reducer import Grid, Shape, Stage
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case


def kept(rows, keep, views=1):
    return DivPrune().select(hidden_taps(rows, views=views), Stage("projected", keep=keep)).indices


@pytest.mark.parametrize("path", golden_paths("divprune"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def by_hand(rows, keep):
    """All distances in float64; the first pick has the largest second smallest one."""
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    distances = 1 - unit @ unit.T
    picks = [int(distances.sort(dim=0).values[1].argmax())]
    while len(picks) < keep:
        least = distances[picks].amin(0)
        least[picks] = -1
        picks.append(int(least.argmax()))
    return picks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [1, 2, 17, 48])
def test_the_search_is_the_published_one(seed, keep):
    rows = normal(2, 48, 20, seed=seed)
    wanted = torch.tensor([by_hand(one, keep) for one in rows])
    unit = torch.nn.functional.normalize(rows, dim=-1)
    assert torch.equal(farthest(1 - unit @ unit.mT, keep), wanted)
    assert torch.equal(kept(rows, keep)[:, 0], wanted.sort().values)


@pytest.mark.parametrize("keep", [1, 17])
def test_the_graph_is_the_reducer(keep):
    assert exported(lambda rows: kept(rows, keep, views=2), normal(2, 48, 20)).shape == (2, 1, keep)


@pytest.mark.parametrize("keep", [1, 5, 36, 71, 72])
def test_every_budget_keeps_that_many_in_order(keep):
    found = kept(normal(2, 72, 16), keep, views=2)
    assert found.shape == (2, 1, keep)
    assert (found.diff(dim=-1) > 0).all()


def test_a_single_token_stays():
    assert kept(normal(1, 1, 4), 1).tolist() == [[[0]]]


def test_ties_go_to_the_lower_index():
    assert kept(torch.eye(8)[None], 3).tolist() == [[[0, 1, 2]]]
    assert kept(torch.ones(1, 6, 4), 3).tolist() == [[[0, 1, 2]]]


def test_a_duplicate_is_kept_last():
    rows = normal(1, 20, 16)
    rows[0, 13] = 2 * rows[0, 4]  # of the same direction
    assert kept(rows, 19).flatten().tolist() == [i for i in range(20) if i != 13]


def test_a_row_of_zeros_is_far_from_all():
    rows = normal(1, 12, 8).abs()
    rows[0, 7] = 0
    assert kept(rows, 1).item() == 7


def test_batch_equals_one_at_a_time():
    rows = normal(3, 40, 16)
    assert torch.equal(kept(rows, 9), in_turn(lambda one: kept(one, 9), rows))


def test_order_of_the_tokens_does_not_matter():
    rows = normal(1, 40, 16)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert sorted(order[kept(rows[:, order], 9).flatten()].tolist()) == kept(rows, 9).flatten().tolist()


def test_plan_cuts_behind_the_projector_over_all_views():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, views=5)
    assert DivPrune().plan(shape, Budget("0.098")) == (Stage("projected", keep=282),)
    with pytest.raises(UserError, match="2880"):
        DivPrune().plan(shape, Budget("2881"))
