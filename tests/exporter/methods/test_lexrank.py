"""LexRank: degrees, walks, and what is made of them."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.lexrank import LexRank, similarity
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case


def kept(rows, keep, **fields):
    return LexRank(**fields).select(hidden_taps(rows), Stage("projected", keep=keep)).indices


@pytest.mark.parametrize("path", golden_paths("lexrank"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


def test_the_degree_is_where_the_undamped_walk_comes_to_rest():
    alike = similarity(normal(2, 20, 8))
    walk = LexRank(mode="damped", damping=0.0, iterations=1000).centrality(alike)
    torch.testing.assert_close(LexRank().centrality(alike), walk)


def test_damped_is_the_papers_iteration():
    edges = similarity(normal(15, 6)).double()
    matrix = edges / edges.sum(1, keepdim=True)
    p = torch.full((15,), 1 / 15, dtype=torch.float64)
    for _ in range(7):
        p = 0.2 / 15 + 0.8 * matrix.T @ p
    found = LexRank(mode="damped", damping=0.2, iterations=7).centrality(edges.float())
    torch.testing.assert_close(found.double(), 15 * p, rtol=1e-5, atol=1e-6)


def test_the_threshold_belongs_to_the_neighbours():
    alike = similarity(torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1]]))  # cosines 0.5, 0.5 and 0
    torch.testing.assert_close(LexRank(threshold=0.5).centrality(alike), torch.tensor([9 / 7, 6 / 7, 6 / 7]))
    torch.testing.assert_close(LexRank(threshold=0.51).centrality(alike), torch.ones(3))


def crowds():
    """Five duplicates, three duplicates, one by itself: all at right angles."""
    return torch.eye(4)[torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2])][None]


@pytest.mark.parametrize(("choose", "wanted"), [("top", [0, 1, 2]), ("bottom", [5, 6, 8]), ("mmr", [0, 5, 8])])
def test_duplicates_stay_go_or_are_represented(choose, wanted):
    assert exported(lambda rows: kept(rows, 3, choose=choose), crowds()).flatten().tolist() == wanted


def test_mmr_by_hand():
    rows = normal(1, 12, 5)
    alike = similarity(rows)[0]
    scores = LexRank().centrality(alike)
    picked = [int(scores.argmax())]
    while len(picked) < 6:
        value = 0.7 * scores / scores.max() - 0.3 * alike[picked].amax(0)
        value[picked] = -10
        picked.append(int(value.argmax()))
    assert kept(rows, 6, choose="mmr", balance=0.7).flatten().tolist() == sorted(picked)


@pytest.mark.parametrize("choose", ["top", "bottom", "mmr"])
@pytest.mark.parametrize("keep", [1, 2, 35, 36])
def test_every_budget_keeps_that_many_in_order(choose, keep):
    chosen = kept(normal(2, 36, 8), keep, choose=choose)
    assert chosen.shape == (2, 1, keep)
    assert (chosen.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("fields", [{}, {"mode": "damped"}, {"choose": "mmr"}, {"threshold": 0.2}], ids=str)
def test_batch_graph_and_ties(fields):
    rows = normal(3, 24, 8)
    together = exported(lambda rows: kept(rows, 7, **fields), rows)
    assert torch.equal(together, in_turn(lambda rows: kept(rows, 7, **fields), rows))
    assert kept(torch.ones(1, 9, 4), 3, **fields).flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("choose", ["top", "bottom", "mmr"])
def test_the_kept_tokens_follow_a_permutation(choose):
    rows, order = normal(1, 30, 8), torch.randperm(30, generator=torch.Generator().manual_seed(3))
    moved = kept(rows[:, order], 9, choose=choose)
    assert torch.equal(order[moved].sort().values, kept(rows, 9, choose=choose))


def test_a_row_of_zeros_has_no_neighbour():
    rows = normal(1, 9, 4)
    rows[0, 4] = 0
    assert 4 not in kept(rows, 8).flatten().tolist()


def test_budgets_count_all_views_behind_the_projector_and_each_in_the_tower():
    shape = Shape(64, Grid(8, 8), tower_layers=4, tower_last=2, views=3)
    assert LexRank().plan(shape, Budget("50%")) == (Stage("projected", keep=96),)
    assert LexRank(tokens="tower").plan(shape, Budget("50%")) == (Stage("tower", 2, keep=32),)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mode", "walk", "mode walk is none of degree, damped"),
        ("choose", "best", "choose best is none of top, bottom, mmr"),
        ("tokens", "llm", "tokens llm is none of projected, tower"),
        ("threshold", "1", "threshold 1 is not a number from 0 to below 1"),
        ("threshold", "high", "threshold high is not a number"),
        ("damping", "1.5", "damping 1.5 is not between 0 and 1"),
        ("balance", "-1", "balance -1.0 is not between 0 and 1"),
        ("iterations", "0", "iterations 0 is not between 1 and 1000"),
    ],
)
def test_parameters_that_make_no_sense(name, value, says):
    with pytest.raises(UserError, match=says):
        method("lexrank", {name: value})
