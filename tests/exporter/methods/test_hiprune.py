"""HiPrune: anchors, buffers and registers."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.hiprune import HiPrune, with_neighbours
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, exported, golden_paths, in_turn, map_taps, play_case

TOWER = {"tower_layers": 2, "tower_last": 1}


def kept(maps, keep, has_cls=True, **fields):
    """`maps` `[B,2,H,n,n]`: of the object layer, then the deep one."""
    taps = map_taps(dict(enumerate(maps.unbind(1))), has_cls=has_cls, **TOWER)
    return HiPrune(object_layer=1, **fields).select(taps, Stage("tower", 1, keep=keep, blanks=True)).indices


@pytest.mark.parametrize("path", golden_paths("hiprune"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def by_hand(objects, deep, keep, anchors, cols):
    """The published procedure: a set of anchors and buffers, then whatever of the deep layer is free."""
    last = len(objects) - 1
    best = torch.sort(objects, descending=True, stable=True).indices[:anchors].tolist()
    chosen = {min(max(j + step, 0), last) for j in best for step in (0, -1, 1, -cols, cols)}
    lowered = deep - torch.tensor([float(j in chosen) for j in range(last + 1)])
    return sorted(
        chosen | set(torch.sort(lowered, descending=True, stable=True).indices[: keep - len(chosen)].tolist())
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["exact-budget", "bit-faithful"])
def test_with_cls_both_modes_are_the_published_procedure(seed, mode):
    maps = attention(2, 2, 2, 65, 65, seed=seed)
    got = kept(maps, 20, alpha=0.9, mode=mode)
    for view, wanted in zip(got[:, 0], maps.mean((2, 3))[..., 1:], strict=True):
        assert view.tolist() == by_hand(*wanted, 20, 4, 8)


@pytest.mark.parametrize("seed", range(4))
def test_without_cls_the_published_code_picks_twice(seed):
    maps = attention(2, 2, 1, 64, 64, seed=seed, spread=1.0)
    maps[:, 1, :, :, :7] += 0.06  # sums far above 1
    maps[:, 0, :, :, 3] += 1.0
    got = exported(lambda maps: kept(maps, 20, has_cls=False, alpha=0.5, mode="bit-faithful"), maps)
    for view, wanted in zip(got[:, 0], maps.mean(2).sum(2), strict=True):
        real = by_hand(*wanted, 20, 2, 8)
        assert len(real) < 20
        assert view.tolist() == real + [-2] * (20 - len(real))


def test_without_cls_exactly_the_budget_is_kept_by_default():
    maps = attention(2, 2, 1, 64, 64)
    maps[:, 1, :, :, :7] += 0.06
    chosen = kept(maps, 20, has_cls=False, alpha=0.5)
    assert chosen.shape == (2, 1, 20)
    assert (chosen.diff(dim=-1) > 0).all()


def test_neighbours_are_clamped_to_the_list_and_wrap_at_row_ends():
    found = with_neighbours(torch.tensor([[[0, 8, 63]]]), Grid(8, 8))
    assert found.tolist() == [[[0, 0, 1, 0, 8, 8, 7, 9, 0, 16, 63, 62, 63, 55, 63]]]


def test_no_anchor_is_the_deep_layer_alone():
    maps = attention(1, 2, 2, 65, 65)
    wanted = maps[0, 1].mean((0, 1))[1:].topk(16).indices.sort().values
    assert torch.equal(kept(maps, 16)[0, 0], wanted)
    assert HiPrune().anchors(16) == 0
    assert [HiPrune().anchors(keep) for keep in (64, 128, 192, 25, 75)] == [1, 3, 4, 0, 2]  # halves to even


def test_ties_go_to_the_lower_index():
    maps = torch.full((1, 2, 2, 65, 65), 1 / 65)
    found = exported(lambda maps: kept(maps, 10, alpha=0.5), maps)
    assert found.tolist() == [[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]]


@pytest.mark.parametrize("keep", [1, 2, 32, 63, 64])
@pytest.mark.parametrize("mode", ["exact-budget", "bit-faithful"])
def test_every_budget_keeps_that_many_in_order(keep, mode):
    chosen = kept(attention(2, 2, 2, 65, 65), keep, mode=mode)
    assert chosen.shape == (2, 1, keep)
    assert (chosen.diff(dim=-1) > 0).all()


def test_batch_equals_one_at_a_time():
    maps = attention(3, 2, 2, 65, 65)
    assert torch.equal(kept(maps, 30, alpha=0.5), in_turn(lambda maps: kept(maps, 30, alpha=0.5), maps))


def test_the_object_layer_is_at_the_authors_depth():
    clip = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    qwen = Shape(468, Grid(18, 26), tower_layers=32, tower_last=31, has_cls=False)
    assert [HiPrune().layer(shape) for shape in (clip, qwen)] == [8, 15]
    assert HiPrune().layer(Shape(16, Grid(4, 4), tower_layers=1)) == 0
    assert HiPrune().plan(clip, Budget("64")) == (Stage("tower", 22, keep=64),)
    assert HiPrune(mode="bit-faithful").plan(qwen, Budget("64")) == (Stage("tower", 31, keep=64, blanks=True),)


def test_plans_that_cannot_be_are_refused():
    clip = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    for layer in (0, 24):
        with pytest.raises(UserError, match=f"object_layer={layer}: give one from 1 to 23"):
            HiPrune(object_layer=layer).plan(clip, Budget("64"))
    with pytest.raises(UserError, match=r"alpha=1.0: 1 anchors .* 3 patches"):
        HiPrune(alpha=1.0).plan(clip, Budget("3"))


@pytest.mark.parametrize(("name", "value"), [("alpha", "1.5"), ("alpha", "-0.1"), ("mode", "fast")])
def test_wrong_parameters_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name} {value} is n"):
        method("hiprune", {name: value})
