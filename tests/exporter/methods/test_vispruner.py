"""VisPruner: important patches, and diverse ones."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.fastervlm import FasterVLM
from exporter.methods.vispruner import VisPruner
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import (
    attention,
    cls_taps,
    exported,
    golden_paths,
    in_turn,
    map_taps,
    normal,
    play_case,
)


def kept(rows, hidden, keep, **fields):
    """`rows` `[B,H,1+N]` of [CLS], `hidden` `[B,1+N,C]`."""
    return VisPruner(**fields).select(cls_taps(rows, hidden=hidden), Stage("tower", 0, keep=keep)).indices


@pytest.mark.parametrize("path", golden_paths("vispruner"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def by_hand(scores, rows, keep, ratio):
    """The published list, in float64; of an odd list one more is scored than not."""
    order = scores.sort(descending=True, stable=True).indices.tolist()
    important = int(keep * ratio)
    line, target = order[important:], keep - important
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    while len(line) > target:
        scored, others = line[::2], line[1::2]
        drop = min(8, len(line) - target, len(scored))
        near = (unit[scored] @ unit[others].T).amax(1)
        line = [scored[i] for i in near.sort(descending=True, stable=True).indices[drop:].tolist()] + others
    return sorted(order[:important] + line)


@pytest.mark.parametrize(("patches", "keep", "ratio"), [(64, 16, 0.5), (64, 17, 0.5), (49, 9, 0.4), (36, 35, 0.0)])
def test_the_list_is_the_published_one(patches, keep, ratio):
    rows, hidden = attention(2, 3, patches + 1), normal(2, patches + 1, 32)
    run = lambda rows, hidden: kept(rows, hidden, keep, important_ratio=ratio)  # noqa: E731
    found = exported(run, rows, hidden)[:, 0].tolist()
    for got, row, states in zip(found, rows, hidden, strict=True):
        assert got == by_hand(row[:, 1:].mean(0), states[1:], keep, ratio)


def test_all_by_attention_is_fastervlm():
    rows, hidden = attention(2, 3, 65), normal(2, 65, 32)
    other = FasterVLM().select(cls_taps(rows), Stage("tower", 0, keep=13)).indices
    assert torch.equal(exported(lambda rows: kept(rows, hidden, 13, important_ratio=1.0), rows), other)


def test_duplicates_leave_first():
    hidden = normal(1, 65, 32)
    hidden[0, 2:65:2] = hidden[0, 1:65:2]  # patches 1, 3, ... are copies
    rows = torch.arange(66.0, 1, -1).reshape(1, 1, 65)
    found = kept(rows, hidden, 40, important_ratio=0.0).flatten()
    assert len(set((found // 2).tolist())) == 32


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 2, 9, 58, 63, 64])
def test_every_budget_keeps_that_many_in_order(keep, ratio):
    found = kept(attention(2, 3, 65), normal(2, 65, 8), keep, important_ratio=ratio)
    assert found.shape == (2, 1, keep)
    assert (found.diff(dim=-1) > 0).all()


def test_the_budget_that_the_authors_code_cannot_take():
    """58 of 576 leaves a list of 547."""
    assert kept(attention(1, 2, 577), normal(1, 577, 8), 58).shape == (1, 1, 58)


def test_ties_go_to_the_earlier_in_the_list():
    same = torch.ones(1, 13, 4)
    assert kept(torch.ones(1, 2, 13), same, 3, important_ratio=1.0).tolist() == [[[0, 1, 2]]]
    # of 0, 2, .. 10 six go, then of the odd places left (1, 3, .. 11) the first three
    assert kept(torch.ones(1, 2, 13), same, 3, important_ratio=0.0).tolist() == [[[3, 7, 11]]]


def test_batch_equals_one_at_a_time():
    rows, hidden = attention(3, 3, 65), normal(3, 65, 32)
    assert torch.equal(kept(rows, hidden, 16), in_turn(lambda row, states: kept(row, states, 16), rows, hidden))


def test_without_cls_attention_received_ranks():
    maps, hidden = attention(1, 2, 64, 64), normal(1, 64, 32)
    taps = map_taps(maps, hidden=hidden, has_cls=False)
    found = VisPruner().select(taps, Stage("tower", 0, keep=16)).indices
    assert found.flatten().tolist() == by_hand(maps.mean((0, 1, 2)), hidden[0], 16, 0.5)


def test_plan_and_mistakes():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    assert VisPruner().plan(shape, Budget("64")) == (Stage("tower", 22, keep=64),)
    with pytest.raises(UserError, match="from 0 to 1"):
        method("vispruner", {"important_ratio": "1.1"})
