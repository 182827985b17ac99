"""VTC-CLS: a sum of [CLS] rows."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.fastervlm import FasterVLM
from exporter.methods.vtc_cls import VtcCls
from exporter.reducer import Grid, Shape, Stage
from tests.exporter.methods.common import (
    attention,
    cls_taps,
    exported,
    golden_paths,
    in_turn,
    map_taps,
    play_case,
    shuffled,
)

TOWER = {"tower_layers": 6, "tower_last": 4}


def select(rows, keep, layer=None, **more):
    """`rows` `[B,L,H,n]` of layers 0 to L - 1."""
    taps = cls_taps(dict(enumerate(rows.unbind(1))), **(TOWER | more))
    return VtcCls(layer).select(taps, Stage("tower", 4, keep=keep))


def kept(rows, keep, layer=None):
    return select(rows, keep, layer).indices


@pytest.mark.parametrize("path", golden_paths("vtc-cls"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def test_layers_from_the_first_to_the_one_that_is_read_are_summed():
    rows = attention(2, 6, 3, 26)
    got = select(rows, 5, layer=2).scores
    torch.testing.assert_close(got[:, 0], rows[:, 2:5, :, 1:].mean(2).sum(1))
    assert torch.equal(select(rows, 5, layer=-4).scores, got)
    torch.testing.assert_close(select(rows, 5).scores[:, 0], rows[:, 4, :, 1:].mean(1))  # 16 of 24 is 4 of 6


@pytest.mark.parametrize("layer", [4, -2])
def test_a_single_layer_is_fastervlm(layer):
    rows = attention(1, 6, 2, 65)
    single = FasterVLM().select(cls_taps(rows[:, 4]), Stage("tower", 0, keep=9))
    assert torch.equal(kept(rows, 9, layer), single.indices)


def test_ties_go_to_the_lower_index():
    rows = torch.full((1, 6, 2, 65), 0.25)
    rows[..., 41] = 0.5
    assert exported(lambda rows: kept(rows, 3, 0), rows).tolist() == [[[0, 1, 40]]]


@pytest.mark.parametrize("keep", [1, 2, 32, 63, 64])
def test_every_budget_keeps_that_many_in_order(keep):
    chosen = kept(attention(2, 6, 2, 65), keep, 1)
    assert chosen.shape == (2, 1, keep)
    assert (chosen.diff(dim=-1) > 0).all()


def test_batch_equals_one_at_a_time():
    rows = attention(3, 6, 2, 65)
    assert torch.equal(kept(rows, 9, 1), in_turn(lambda rows: kept(rows, 9, 1), rows))


def test_the_kept_patches_follow_a_permutation():
    rows = attention(1, 6, 2, 65)
    moved, order = shuffled(rows, -1)
    assert torch.equal(order[kept(moved, 9, 1)].sort().values, kept(rows, 9, 1))


def test_without_cls_the_global_layers_of_the_range_are_summed():
    maps = {layer: attention(1, 2, 16, 16, seed=layer) for layer in range(5)}
    taps = map_taps(maps, has_cls=False, global_layers=(1, 3), **TOWER)
    scores = VtcCls(0).select(taps, Stage("tower", 4, keep=3)).scores
    torch.testing.assert_close(scores[:, 0], (maps[1] + maps[3]).mean((1, 2)))
    scores = VtcCls(3).select(taps, Stage("tower", 4, keep=3)).scores
    torch.testing.assert_close(scores[:, 0], maps[3].mean((1, 2)))


def test_the_plan_cuts_once_and_refuses_layers_that_are_not_there():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    assert VtcCls().plan(shape, Budget("64")) == (Stage("tower", 22, keep=64),)
    assert VtcCls().first(shape) == 16
    for layer in (23, -1, -25):
        with pytest.raises(UserError, match=f"layer={layer}: .* layer 22 .* from 0 to 22"):
            VtcCls(layer).plan(shape, Budget("64"))
