"""ToDRE, stage 1: no vectors were published, so the search is checked against plain loops in float64."""

from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.todre import ToDRE
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, cls_taps, exported, hidden_taps, in_turn, normal, uniform


def kept(rows, seen, keep, views=1, video=False, has_cls=True, **fields):
    """`rows` `[B,V*N,D]`, `seen` `[B,V*N]`: attention of [CLS], carried from the tower."""
    width = rows.shape[1]
    taps = hidden_taps(rows, views=views, video=video, carry={"attention": seen[:, None]})
    shape = Shape(width // views, Grid(1, width // views), views=views, video=video, has_cls=has_cls)
    return ToDRE(**fields).select(replace(taps, shape=shape), Stage("projected", keep=keep)).indices


def by_hand(rows, pivot, keep, mode):
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    picks = [pivot]
    while len(picks) < keep:
        near = unit @ unit[picks].T
        cost = near.sum(1) if mode == "max-sum" else near.amax(1)
        cost[picks] = torch.inf
        picks.append(int(cost.argmin()))
    return sorted(picks)


@pytest.mark.parametrize("mode", ["max-sum", "k-center"])
@pytest.mark.parametrize("keep", [1, 13])
def test_the_search_is_the_published_one(mode, keep):
    rows, seen = normal(2, 40, 20), uniform(2, 40)
    wanted = [by_hand(one, int(row.argmax()), keep, mode) for one, row in zip(rows, seen, strict=True)]
    assert exported(lambda rows, seen: kept(rows, seen, keep, mode=mode), rows, seen)[:, 0].tolist() == wanted


@pytest.mark.parametrize("mode", ["max-sum", "k-center"])
def test_the_first_pick_is_the_token_that_cls_attends_to_most(mode):
    rows, seen = normal(1, 30, 8), uniform(1, 30)
    assert kept(rows, seen, 1, mode=mode).item() == seen.argmax()


@pytest.mark.parametrize("init", ["far", "center"])
def test_the_pivot_may_be_far_from_the_mean_or_close_to_it(init):
    rows = normal(2, 30, 8)
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    near = (unit * torch.nn.functional.normalize(unit.mean(1, keepdim=True), dim=-1)).sum(-1)
    wanted = near.argmin(1) if init == "far" else near.argmax(1)
    assert kept(rows, uniform(2, 30), 1, init=init).flatten().tolist() == wanted.tolist()


def test_without_cls_the_search_starts_far_from_the_mean():
    rows, seen = normal(1, 30, 8), uniform(1, 30)
    assert torch.equal(kept(rows, seen, 7, has_cls=False), kept(rows, seen, 7, init="far"))


def test_of_several_crops_only_the_whole_picture_starts_of_frames_any():
    rows, seen = normal(1, 40, 8), uniform(1, 40)
    seen[0, 33], seen[0, 4] = 2.0, 1.5
    assert kept(rows, seen, 1, views=4).item() == 4
    assert kept(rows, seen, 1, views=4, video=True).item() == 33


@pytest.mark.parametrize("mode", ["max-sum", "k-center"])
def test_a_duplicate_of_a_kept_token_is_kept_last(mode):
    rows, seen = torch.eye(12)[None].clone(), torch.zeros(1, 12)
    rows[0, 9] = rows[0, 3]
    seen[0, 3] = 1
    assert 9 not in kept(rows, seen, 11, mode=mode).flatten().tolist()


def test_two_orthogonal_clusters_take_turns():
    rows = torch.eye(2)[[0, 0, 0, 0, 1, 1, 1, 1]][None]
    seen = torch.tensor([[0, 1.0, 0, 0, 0, 0, 0, 0]])
    assert [kept(rows, seen, keep).flatten().tolist() for keep in (2, 3, 4)] == [[1, 4], [0, 1, 4], [0, 1, 4, 5]]


@pytest.mark.parametrize("keep", [1, 7, 39, 40])
def test_every_budget_keeps_that_many_in_order(keep):
    found = kept(normal(3, 40, 8), uniform(3, 40), keep, views=2)
    assert found.shape == (3, 1, keep)
    assert (found.diff(dim=-1) > 0).all()


def test_ties_go_to_the_lower_index():
    assert kept(torch.eye(8)[None], torch.ones(1, 8), 3).tolist() == [[[0, 1, 2]]]


def test_batch_equals_one_at_a_time():
    rows, seen = normal(3, 40, 8), uniform(3, 40)
    assert torch.equal(kept(rows, seen, 9), in_turn(lambda row, one: kept(row, one, 9), rows, seen))


@pytest.mark.parametrize(("layers", "layer"), [(24, 23), (23, 22)])
def test_attention_is_taken_from_the_last_layer(layers, layer):
    maps = attention(2, 4, 10)
    taps = cls_taps({22: 0 * maps, layer: maps}, tower_layers=layers, tower_last=22)
    found = ToDRE().select(taps, Stage("tower", 22)).carry["attention"]
    assert torch.allclose(found, maps[:, :, 1:].mean(1)[:, None])


def test_plan_looks_at_cls_only_where_it_starts_there():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, views=5)
    cut = Stage("projected", keep=288)
    assert ToDRE(stage2=False).plan(shape, Budget("10%")) == (Stage("tower", 22), cut)
    assert ToDRE(init="far", stage2=False).plan(shape, Budget("288")) == (cut,)
    bare = Shape(576, Grid(24, 24), views=5, has_cls=False)
    assert ToDRE(stage2=False).plan(bare, Budget("288")) == (cut,)


@pytest.mark.parametrize("params", [{"mode": "max"}, {"init": "mean"}])
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError, match="choose from") as caught:
        method("todre", params)
    assert "\n" not in str(caught.value)
