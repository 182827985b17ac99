"""FoPru: attention received or given, patches or rows of them."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import Seen
from exporter.methods.fopru import FoPru
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import (
    attention,
    exported,
    golden_paths,
    in_turn,
    map_taps,
    normal,
    play_case,
    shuffled,
    taps,
)


def kept(maps, keep, **fields):
    grid = fields.pop("grid", None)
    return FoPru(**fields).select(map_taps(maps, grid=grid), Stage("tower", 0, keep=keep)).indices


@pytest.mark.parametrize("path", golden_paths("fopru"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def test_what_varies_more_decides_for_each_view_alone():
    uneven = torch.zeros(17, 17)
    uneven[1:, 6] = 0.5  # everybody looks at patch 5
    uneven[9, 1:] += 0.05  # patch 8 looks at everybody
    maps = torch.stack([uneven, uneven.T])[:, None]
    assert kept(maps, 1).flatten().tolist() == [5, 5]
    maps = torch.stack([uneven, torch.where(uneven == 0.5, 0.0, uneven)])[:, None]
    assert kept(maps, 1).flatten().tolist() == [5, 8]


def test_equal_variance_ranks_by_attention_given():
    given = torch.zeros(1, 1, 17, 17)
    given[0, 0, 4, 10] = 0.5
    assert kept(given, 1).tolist() == [[[3]]]


def test_cls_takes_no_part():
    maps = attention(1, 2, 17, 17)
    loud = maps.clone()
    loud[:, :, 0], loud[..., 0] = 9.0, normal(1, 2, 17)
    assert torch.equal(kept(maps, 6), kept(loud, 6))


def test_logits_are_those_before_the_softmax():
    q, k = normal(1, 2, 17, 8), normal(1, 2, 17, 8, seed=1)
    seen = {0: Seen(attention=attention(1, 2, 17, 17), qkv={True: QKV(q, k, k)}, scale=0.5)}
    reducer = FoPru(input="logit")
    got = reducer.significance(taps(seen, patches=16), 0)[0, 0]
    block = (q @ k.transpose(2, 3) * 0.5).mean(1)[0, 1:, 1:]
    column, row = block.mean(0), block.mean(1)
    torch.testing.assert_close(got, column if column.var() > row.var() else row)


def test_rows_are_kept_whole_also_of_oblong_grids():
    maps = attention(2, 2, 25, 25)
    chosen = kept(maps, 12, strategy="row", grid=(4, 6))
    assert (chosen.reshape(2, 2, 6) % 6 == torch.arange(6)).all()
    lines = chosen[..., ::6] // 6
    sums = maps[:, :, 1:, 1:].mean((1, 2)).reshape(2, 4, 6).sum(-1)
    assert torch.equal(lines[:, 0], sums.topk(2).indices.sort().values)
    run = lambda maps: kept(maps, 12, strategy="row", grid=(4, 6))  # noqa: E731
    assert torch.equal(exported(run, maps), chosen)


def test_rows_round_the_budget_to_whole_ones():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    asked = {1: 24, 35: 24, 36: 48, 64: 72, 72: 72, 120: 120, 144: 144, 192: 192, 576: 576}
    for keep, held in asked.items():
        assert FoPru(strategy="row").plan(shape, Budget(str(keep))) == (Stage("tower", 22, keep=held),)
        assert FoPru().plan(shape, Budget(str(keep))) == (Stage("tower", 22, keep=keep),)


def test_ties_go_to_the_lower_index():
    maps = torch.full((1, 2, 17, 17), 1 / 17)
    assert exported(lambda maps: kept(maps, 3), maps).tolist() == [[[0, 1, 2]]]
    assert exported(lambda maps: kept(maps, 4, strategy="row"), maps).tolist() == [[[0, 1, 2, 3]]]


@pytest.mark.parametrize("keep", [1, 2, 31, 63, 64])
def test_every_budget_keeps_that_many_in_order(keep):
    chosen = kept(attention(2, 2, 65, 65), keep)
    assert chosen.shape == (2, 1, keep)
    assert (chosen.diff(dim=-1) > 0).all()


def test_batch_equals_one_at_a_time():
    maps = attention(3, 2, 65, 65)
    assert torch.equal(kept(maps, 9), in_turn(lambda maps: kept(maps, 9), maps))


def test_the_kept_patches_follow_a_permutation():
    maps = attention(1, 2, 65, 65)
    moved, order = shuffled(maps, -1, -2)
    assert torch.equal(order[kept(moved, 9)].sort().values, kept(maps, 9))


def test_without_cls_the_whole_map_counts():
    maps = attention(1, 2, 16, 16)
    scores = FoPru().select(map_taps(maps, has_cls=False), Stage("tower", 0, keep=3)).scores
    torch.testing.assert_close(scores[:, 0], maps.mean((1, 2)))


@pytest.mark.parametrize(("name", "value"), [("strategy", "column"), ("input", "softmax")])
def test_wrong_parameters_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name} {value} is neither"):
        method("fopru", {name: value})
