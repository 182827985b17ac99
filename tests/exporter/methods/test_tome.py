"""ToMe: pairs, means, sizes and schedules."""

from itertools import pairwise

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import Seen
from exporter.methods.tome import ToMe, pairs, schedule
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, in_turn, normal, play_case, taps
from tests.exporter.methods.tower import pictures, tower_shape, walked


def chosen(keys, keep, has_cls=True, size=None, **fields):
    """`keys` `[B,n,d]` of one head."""
    k = keys[:, None]
    carry = {} if size is None else {"size": size}
    seen = {0: Seen(qkv={True: QKV(k, k, k)})}
    given = taps(seen, patches=keys.shape[1] - has_cls, batch=len(keys), has_cls=has_cls, carry=carry)
    return ToMe(**fields).select(given, Stage("tower", 0, "mid", keep=keep))


@pytest.mark.parametrize("path", golden_paths("tome"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


@pytest.mark.parametrize(("has_cls", "takes"), [(True, 0), (False, 1)])
def test_odd_places_of_the_sequence_take_others_in(has_cls, takes):
    keys = torch.nn.functional.normalize(normal(1, 1, 9, 4), dim=-1)
    gone, target = pairs(keys, 3, int(not has_cls))
    assert gone.sum() == 3
    assert (torch.arange(9)[gone[0, 0] > 0] % 2 != takes).all()
    assert (target % 2 == takes).all()


@pytest.mark.parametrize("has_cls", [True, False])
def test_of_equal_pairs_the_first_merge_into_the_first(has_cls):
    got = exported(lambda keys: chosen(keys, 5, has_cls).mix, torch.ones(1, 8 + has_cls, 4))[0, 0]
    merged, into = ([1, 3, 5], 0) if has_cls else ([0, 2, 4], 1)
    kept = [j for j in range(8) if j not in merged]
    wanted = torch.eye(8)[kept]
    wanted[kept.index(into), [into, *merged]] = 0.25
    torch.testing.assert_close(got, wanted)


def test_means_are_weighted_by_size_and_logits_grow_by_its_logarithm():
    keys = torch.tensor([[[9.0, 9], [1, 0], [1, 0.1], [0, 1], [-1, 0]]])  # [CLS]; patch 1 goes into patch 0
    size = torch.tensor([[[2.0, 3, 1, 1]]])
    found = chosen(keys, 3, size=size)
    assert found.indices.tolist() == [[[0, 2, 3]]]
    torch.testing.assert_close(found.mix[0, 0, 0], torch.tensor([0.4, 0.6, 0, 0]))
    assert found.carry["size"].tolist() == [[[5, 1, 1]]]
    torch.testing.assert_close(found.key_bias[0, 0], torch.tensor([2.5, 1, 1]).log())
    assert chosen(keys, 3, size=size, attention=False).key_bias is None


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 7, 15, 16])
def test_every_budget_is_that_many_rows_and_no_patch_is_lost(keep, has_cls):
    seen, _ = walked(ToMe(inflect=-0.5), pictures(2, 16, has_cls), keep, 6, has_cls)
    assert seen.origin.shape == (2, 1, keep)
    assert (seen.origin.diff(dim=-1) > 0).all()
    if keep < 16:
        assert (seen.carry["size"].sum(-1) == 16).all()
        torch.testing.assert_close(seen.bias[:, int(has_cls) :], seen.carry["size"][:, 0].log())


def test_batch_and_graph_equal_one_at_a_time():
    def rows(x):
        return walked(ToMe(), x, 6, 5)[0].hidden

    x = pictures(3, 20)
    torch.testing.assert_close(exported(rows, x), in_turn(rows, x))


def test_a_copy_of_the_model_with_proportional_attention_sees_the_duplicates():
    """Merging equal patches changes nothing of what [CLS] reads, if sizes are attended to."""
    x = pictures(1, 8)
    x[:, 2::2] = x[:, 1::2]  # each patch twice
    dense, merged, blind = (
        walked(method, x, keep, 4)[0]
        for method, keep in ((ToMe(), 8), (ToMe("4,0"), 4), (ToMe("4,0", attention=False), 4))
    )
    torch.testing.assert_close(merged.hidden[:, 0], dense.hidden[:, 0])
    assert not torch.allclose(blind.hidden[:, 0], dense.hidden[:, 0])


def test_tokens_of_several_rows_move_together():
    seen, _ = walked(ToMe(), pictures(1, 48, False), 5, 4, has_cls=False, unit=4)
    assert seen.hidden.shape[1] == 20


def test_published_schedules():
    assert schedule(12, (5,), 0) == [5] * 12
    assert schedule(12, (5,), -1) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert schedule(5, (3, 2), 0) == [3, 2, 0, 0, 0]
    assert schedule(1, (5,), 0) == [5]


def left(method, keep):
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    return {stage.layer: stage.keep for stage in method.plan(shape, Budget(keep))}


def test_the_budget_is_spread_over_the_layers():
    even = [576, *left(ToMe(), "64").values()]
    assert len(even) == 24
    assert {a - b for a, b in pairwise(even)} == {22, 23}
    falling = [576, *left(ToMe(inflect=-1), "300").values()]
    steps = [a - b for a, b in pairwise(falling)]
    assert falling[-1] == 300
    assert steps[0] == 24
    assert steps[-1] <= 2
    assert left(ToMe("16"), str(576 - 23 * 16))[22] == 576 - 23 * 16
    assert left(ToMe("100,0,50"), "426") == {0: 476, 2: 426}
    assert left(ToMe(), "576") == {}
    assert list(left(ToMe(), "1").values())[-6:] == [32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize(
    ("fields", "keep", "says"),
    [
        ({}, "4", "--keep 4: merging at most half in each layer leaves 8; keep that or more"),
        ({"r": "8"}, "20", "--param r=8: leaves 7 patches, --keep says 20; make them agree"),
        ({"r": "8,8,8,8"}, "20", "--param r=8,8,8,8: 4 numbers, but the tower has 3 layers to merge in"),
    ],
)
def test_plans_that_do_not_fit(fields, keep, says):
    with pytest.raises(UserError, match=says):
        ToMe(**fields).plan(tower_shape(64 if not fields else 30, 4), Budget(keep))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("r", "a", "r a is no list of numbers"), ("inflect", "2", "inflect 2.0 is not between -1 and 1")],
)
def test_parameters_that_make_no_sense(name, value, says):
    with pytest.raises(UserError, match=says):
        method("tome", {name: value})
