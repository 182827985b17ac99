"""PruMerge and PruMerge+: kept patches with their neighbours, and one row of the rest."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import Seen
from exporter.methods.prumerge import PruMerge
from exporter.methods.prumerge_plus import PruMergePlus
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from exporter.sequence import Sequence, cut
from tests.exporter.methods.common import exported, golden_paths, in_turn, normal, play_case, taps

PATCHES = 36
SHAPE = Shape(PATCHES, Grid(6, 6), tower_layers=3, tower_last=1)


def selected(reducer, keep, q, k, has_cls=True, **more):
    """The stage and what is selected, from `[B,H,n,d]` queries and keys of layer 2."""
    (stage,) = reducer.plan(SHAPE, Budget(str(keep)))
    geometry = {"tower_layers": 3, "tower_last": 1, "has_cls": has_cls} | more
    seen = {min(2, geometry["tower_layers"] - 1): Seen(qkv={False: QKV(q, k, k)})}
    return stage, reducer.select(taps(seen, patches=PATCHES, batch=len(q), **geometry), stage)


def order_of(reducer, keep):
    """`run(q, k)`: the kept patches as they are handed on."""
    return lambda q, k: selected(reducer, keep, q, k)[1].indices


def rows_of(reducer, keep):
    """`run(q, k, hidden)`: the rows behind [CLS]."""

    def run(q, k, hidden):
        places = torch.arange(PATCHES).expand(len(hidden), 1, -1)
        return cut(Sequence(hidden, 1, PATCHES, places), *selected(reducer, keep, q, k), renumber=True).hidden[:, 1:]

    return run


def arrays(batch=2, seed=0, length=PATCHES + 1):
    return normal(batch, 2, length, 4, seed=seed), normal(batch, 2, length, 4, seed=9), normal(batch, length, 5)


def attention_of(q, k):
    """One head of all widths side by side: `[B,n]`, [CLS] in front."""
    q, k = (part.transpose(1, 2).flatten(2) for part in (q, k))
    return (q[:, :1] @ k.transpose(1, 2) / k.shape[-1] ** 0.5).softmax(-1)[:, 0]


def merged_by_hand(a, keys, x, kept, neighbours):
    """The published merging, row by row, for one view's patches."""
    keys, rows = keys / keys.norm(dim=-1, keepdim=True), []
    for i in kept:
        alike = keys @ keys[i]
        alike[i] = -torch.inf
        near = alike.topk(neighbours).indices
        rows.append(x[i] + (a[near, None] * x[near]).sum(0))
    rest = [j for j in range(len(x)) if j not in kept]
    return torch.stack([*rows, (a[rest, None] * x[rest]).sum(0)])


@pytest.mark.parametrize("path", golden_paths("prumerge"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


@pytest.mark.parametrize("keep", [1, 2, 17, 35, 36])
@pytest.mark.parametrize("kind", [PruMerge, PruMergePlus])
def test_every_budget_hands_on_that_many_merged_rows(kind, keep):
    q, k, hidden = arrays()
    got = rows_of(kind(neighbours=5), keep)(q, k, hidden)
    assert got.shape == (2, keep, 5)
    order = order_of(kind(neighbours=5), keep)(q, k)
    for view in range(2):
        kept = [] if order is None else order[view, 0].tolist()
        a, keys = attention_of(q, k)[view, 1:], k[view].transpose(0, 1).flatten(1)[1:]
        assert len(set(kept)) == keep - 1
        torch.testing.assert_close(got[view], merged_by_hand(a, keys, hidden[view, 1:], kept, 5))


def test_the_most_attended_come_first():
    q, k, _ = arrays()
    wanted = attention_of(q, k)[:, 1:].topk(9).indices
    assert torch.equal(order_of(PruMerge(), 10)(q, k)[:, 0], wanted)


def published_plus(a, top, spread):
    """The most attended, then what the grid adds."""
    best = torch.sort(a, descending=True, stable=True).indices[:top].tolist()
    return best + [j for j in spread if j not in best]


@pytest.mark.parametrize("top", [1, 5, 12])
@pytest.mark.parametrize("stride", [3, 5, 40])
def test_plus_with_a_given_number_is_as_published_and_leaves_blanks(top, stride):
    q, k, hidden = arrays(4)
    reducer = PruMergePlus(5, stride, top)
    order = order_of(reducer, 26)(q, k)
    rows = rows_of(reducer, 26)(q, k, hidden)
    for view, a in enumerate(attention_of(q, k)[:, 1:]):
        kept = published_plus(a, top, range(0, PATCHES - 1, stride))
        assert order[view, 0].tolist() == kept + [-2] * (25 - len(kept))
        wanted = merged_by_hand(a, k[view].transpose(0, 1).flatten(1)[1:], hidden[view, 1:], kept, 5)
        torch.testing.assert_close(torch.cat([rows[view, : len(kept)], rows[view, -1:]]), wanted)
        assert (rows[view, len(kept) : -1] == 0).all()


@pytest.mark.parametrize("keep", [13, 20, 30, 36])
def test_plus_fills_the_budget_as_published_with_some_number(keep):
    """Of all numbers by attention, the smallest whose union with the grid is the budget."""
    q, k, _ = arrays(4)
    order = exported(order_of(PruMergePlus(5, stride=3), keep), q, k)
    for view, a in enumerate(attention_of(q, k)[:, 1:]):
        fitting = [published_plus(a, top, range(0, PATCHES - 1, 3)) for top in range(PATCHES + 1)]
        assert order[view, 0].tolist() == next(kept for kept in fitting if len(kept) == keep - 1)


def test_the_graph_with_blanks_does_the_same():
    assert (exported(order_of(PruMergePlus(5, 3, 9), 25), *arrays()[:2]) == -2).any()
    exported(rows_of(PruMergePlus(5, 3, 9), 25), *arrays())


def test_ties_go_to_the_lower_index():
    q, k, hidden = torch.zeros(1, 2, 37, 4), torch.ones(1, 2, 37, 4), normal(1, 37, 5)
    assert exported(order_of(PruMerge(5), 4), q, k).tolist() == [[[0, 1, 2]]]
    assert exported(order_of(PruMergePlus(5, stride=17), 5), q, k).tolist() == [[[0, 1, 17, 34]]]
    rows = exported(rows_of(PruMerge(2), 3), q, k, hidden)[0]
    torch.testing.assert_close(rows[1], hidden[0, 2] + (hidden[0, 1] + hidden[0, 3]) / 37)


def test_batch_equals_one_at_a_time():
    for kind in (PruMerge, PruMergePlus):
        run = rows_of(kind(neighbours=5), 12)
        torch.testing.assert_close(run(*arrays(3)), in_turn(run, *arrays(3)))


def test_where_the_last_layer_is_read_it_is_scored_too_and_without_cls_all_query():
    q, k, _ = arrays(length=PATCHES)
    wide_q, wide_k = (part.transpose(1, 2).flatten(2) for part in (q, k))
    a = (wide_q @ wide_k.transpose(1, 2) / 8**0.5).softmax(-1).mean(1)
    for more in ({}, {"tower_layers": 2}):
        got = selected(PruMerge(), 10, q, k, has_cls=False, **more)[1].indices[:, 0]
        assert torch.equal(got, a.topk(9).indices)


def test_plus_spaces_its_grid_as_the_authors_rule_does():
    spread = PruMergePlus().spread
    assert [(s.step, len(s)) for s in (spread(576, keep - 1) for keep in (64, 128, 192))] == [
        (12, 48),
        (6, 96),
        (4, 144),
    ]
    assert max(spread(576, 575)) == 574  # the last patch is never sampled
    for keep in range(1, 576):
        assert len(spread(576, keep)) <= keep
        assert len(PruMergePlus(top=1).spread(576, keep)) <= max(1, keep - 1)


def test_plans():
    assert PruMerge(5).plan(SHAPE, Budget("12")) == (Stage("tower", 1, keep=11, extra=1),)
    assert PruMergePlus(5).plan(SHAPE, Budget("12")) == (Stage("tower", 1, keep=11, extra=1),)
    assert PruMergePlus(5, 7, 3).plan(SHAPE, Budget("12")) == (Stage("tower", 1, keep=11, extra=1, blanks=True),)
    with pytest.raises(UserError, match=r"hold up to 12 patches, .* keep 13 of 36 or more"):
        PruMergePlus(5, stride=3).plan(SHAPE, Budget("12"))
    with pytest.raises(UserError, match=r"hold up to 13 patches"):
        PruMergePlus(5, stride=4, top=4).plan(SHAPE, Budget("12"))
    with pytest.raises(UserError, match="neighbours=36: a patch has 35 others"):
        PruMerge(36).plan(SHAPE, Budget("12"))


@pytest.mark.parametrize("name", ["neighbours", "stride", "top"])
def test_wrong_parameters_are_refused(name):
    with pytest.raises(UserError, match=f"{name} 0 is less than 1"):
        method("prumerge-plus", {name: "0"})
