"""FasterVLM against vectors recorded from the authors' own code, in PyTorch and as an exported graph."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.fastervlm import FasterVLM
from exporter.reducer import Grid, Shape, Stage
from tests.exporter.methods.common import (
    attention,
    cls_taps,
    exported,
    golden_paths,
    in_turn,
    play_case,
    shuffled,
    uniform,
)


def kept(rows, keep):
    return FasterVLM().select(cls_taps(rows), Stage("tower", 0, keep=keep)).indices


@pytest.mark.parametrize("path", golden_paths("fastervlm"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def test_ties_go_to_the_lower_index():
    rows = torch.full((1, 2, 145), 0.5)
    assert kept(rows, 5).flatten().tolist() == [0, 1, 2, 3, 4]
    rows[0, :, 1 + 140] = 0.6
    assert kept(rows, 3).flatten().tolist() == [0, 1, 140]
    assert exported(lambda rows: kept(rows, 3), rows).flatten().tolist() == [0, 1, 140]


@pytest.mark.parametrize("keep", [1, 72, 143, 144])
def test_every_budget_keeps_that_many_in_order(keep):
    chosen = kept(uniform(2, 3, 145), keep)
    assert chosen.shape == (2, 1, keep)
    assert (chosen.diff(dim=-1) > 0).all()


def test_batch_equals_one_at_a_time():
    rows = uniform(3, 2, 145)
    assert torch.equal(kept(rows, 20), in_turn(lambda rows: kept(rows, 20), rows))


def test_the_kept_patches_follow_a_permutation():
    rows = attention(1, 2, 65)
    moved, order = shuffled(rows, -1)
    assert torch.equal(order[kept(moved, 9)].sort().values, kept(rows, 9))


def test_plan_cuts_once_behind_the_layer_that_is_read():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32, has_cls=True)
    assert FasterVLM().plan(shape, Budget("11%")) == (Stage("tower", 22, keep=63),)
    with pytest.raises(UserError, match="577"):
        FasterVLM().plan(shape, Budget("577"))
