"""Random: the same patches of every picture."""

import numpy as np
import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.random import Random
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, normal, taps


def kept(keep, patches=576, batch=1, seed=0):
    return Random(seed).select(taps({}, patches=patches, batch=batch), Stage("tower", 0, keep=keep)).indices


@pytest.mark.parametrize("keep", [1, 64, 575, 576])
def test_every_budget_keeps_that_many_in_order_for_everybody(keep):
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    assert Random().plan(shape, Budget(str(keep))) == (Stage("tower", 22, keep=keep),)
    chosen = kept(keep, batch=3)
    assert chosen.shape == (3, 1, keep)
    assert (chosen == chosen[:1]).all()
    assert (chosen.diff(dim=-1) > 0).all()
    assert 0 <= chosen.min() <= chosen.max() < 576


def test_it_is_numpys_permutation_of_the_seed():
    assert kept(8).flatten().tolist() == [81, 85, 142, 253, 389, 463, 521, 545]
    wanted = np.sort(np.random.default_rng(7).permutation(36)[:9])
    assert kept(9, patches=36, seed=7).flatten().tolist() == wanted.tolist()
    assert method("random", {"seed": "7"}) == Random(7)
    with pytest.raises(UserError, match="seed -1 is less than 0"):
        method("random", {"seed": "-1"})


def test_it_is_a_constant_of_the_graph():
    hidden = normal(1, 576, 3)
    assert torch.equal(exported(lambda hidden: hidden[:, kept(64)[0, 0]], hidden), hidden[:, kept(64)[0, 0]])
