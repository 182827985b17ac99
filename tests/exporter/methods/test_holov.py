"""HoloV: shares of the budget for runs of tokens, the most attended of each run."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.runs import Runs
from exporter.methods.holov import HoloV, passed_on
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import (
    attention,
    cls_taps,
    exported,
    golden_paths,
    hidden_taps,
    in_turn,
    normal,
    play_case,
)


def kept(features, scores, keep, **fields):
    """`features` `[B,N,D]`, `scores` `[B,N]`."""
    taps = hidden_taps(features, carry={"attention": scores[:, None]})
    return HoloV(**fields).select(taps, Stage("projected", keep=keep, blanks=True)).indices


@pytest.mark.parametrize("path", golden_paths("holov"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def by_hand(features, scores, keep, count, alpha):
    """The published procedure, run by run."""
    runs = [part.tolist() for part in torch.arange(len(scores)).tensor_split(count)]
    means = []
    for run in runs:
        rows, attended = features[run], 1000 * scores[run]
        rows = rows / (rows.norm(dim=-1, keepdim=True) + 1e-6)
        cosines = (rows @ rows.T).fill_diagonal_(0)
        others = len(run) - 1
        var = ((cosines - cosines.sum(1, keepdim=True) / others) ** 2).sum(1) / others
        means.append((attended + alpha * var * (attended.mean() / (var.mean() + 1e-6))).mean())
    weights = torch.stack(means) / (sum(means) + 1e-6)
    share = (keep * weights).floor().long()
    for lucky in torch.sort(weights, descending=True, stable=True).indices[: keep - int(share.sum())]:
        share[lucky] += 1
    chosen = []
    for run, part in zip(runs, share.tolist(), strict=True):
        best = torch.sort(scores[run], descending=True, stable=True).indices[:part].tolist()
        chosen += run if part >= len(run) else [run[place] for place in best]
    return chosen + [-1] * (keep - len(chosen))


@pytest.mark.parametrize("keep", [1, 2, 9, 30, 50, 59, 60])
@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("alpha", [0.0, 0.09, 5.0])
def test_it_is_the_published_procedure(keep, count, alpha):
    features, scores = normal(2, 60, 5, seed=keep), attention(2, 60, seed=count)
    got = kept(features, scores, keep, runs=count, alpha=alpha)
    assert got.shape == (2, 1, keep)
    assert got[:, 0].tolist() == [
        by_hand(view, row, keep, count, alpha) for view, row in zip(features, scores, strict=True)
    ]


def test_the_graph_does_the_same_with_uneven_runs_and_overflow():
    features, scores = normal(2, 60, 5), attention(2, 60, spread=3.0)
    got = exported(lambda features, scores: kept(features, scores, 40, runs=7), features, scores)
    assert (got == -1).any(-1).all()


@pytest.mark.parametrize("keep", [1, 13, 40, 59, 60])
def test_redistributed_there_are_no_zeros(keep):
    features, scores = normal(2, 60, 5), attention(2, 60, spread=4.0)
    run = lambda features, scores: kept(features, scores, keep, runs=7, redistribute=True)  # noqa: E731
    for view in exported(run, features, scores)[:, 0]:
        assert len(set(view.tolist())) == keep
        assert view.min() >= 0


def test_what_a_run_cannot_take_goes_to_the_next_and_round_the_end():
    share, sizes = torch.tensor([[[9, 0, 2, 7]]]), torch.tensor([5, 5, 4, 4])
    assert passed_on(share, sizes).tolist() == [[[5, 5, 4, 4]]]
    assert passed_on(torch.tensor([[[6, 1, 1, 1]]]), sizes).tolist() == [[[5, 2, 1, 1]]]
    assert passed_on(torch.tensor([[[0, 0, 1, 6]]]), sizes).tolist() == [[[2, 0, 1, 4]]]


def test_ties_go_to_the_lower_index_and_the_lower_run():
    features, scores = torch.ones(1, 12, 3), torch.full((1, 12), 1 / 12)
    got = exported(lambda features, scores: kept(features, scores, 5, runs=4), features, scores)
    assert got.tolist() == [[[0, 1, 3, 6, 9]]]


def test_batch_equals_one_at_a_time():
    arrays = normal(3, 60, 5), attention(3, 60)
    run = lambda *arrays: kept(*arrays, 20)  # noqa: E731
    assert torch.equal(run(*arrays), in_turn(run, *arrays))


@pytest.mark.parametrize("keep", [1, 10, 143, 144])
def test_as_many_runs_as_the_authors_rule_says(keep):
    assert kept(normal(1, 144, 4), attention(1, 144), keep).shape == (1, 1, keep)
    count = max(1, min(144, int(1024 / 576 * 144 / keep)))
    assert torch.equal(
        kept(normal(1, 144, 4), attention(1, 144), keep),
        kept(normal(1, 144, 4), attention(1, 144), keep, runs=count),
    )


def test_runs_are_nearly_equal_and_cover_the_list():
    runs = Runs(11, 4)
    assert (runs.sizes.tolist(), runs.starts.tolist(), runs.width) == ([3, 3, 3, 2], [0, 3, 6, 9], 3)
    split = runs.split(torch.arange(11.0)[None, None], -1.0)
    assert split.tolist() == [[[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, -1]]]]


def test_attention_is_carried_to_the_projector():
    rows = attention(2, 3, 17)
    carried = HoloV().select(cls_taps(rows), Stage("tower", 0)).carry["attention"]
    torch.testing.assert_close(carried[:, 0], rows[..., 1:].mean(1))


def test_the_plan_counts_all_views_together():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, views=5)
    stages = (Stage("tower", 22), Stage("projected", keep=320, blanks=True))
    assert HoloV().plan(shape, Budget("320")) == stages
    assert not HoloV(redistribute=True).plan(shape, Budget("320"))[1].blanks
    with pytest.raises(UserError, match="runs=2881: a picture has 2880 tokens"):
        HoloV(runs=2881).plan(shape, Budget("320"))
    with pytest.raises(UserError, match="runs 0 is less than 1"):
        method("holov", {"runs": "0"})
