"""Slots that are filled from the front, and the density of rows."""

import pytest
import torch

from exporter.maths.density import distances, peaks
from exporter.maths.segments import anchors, dynamic, uniform
from exporter.maths.slots import EMPTY, packed
from tests.exporter.methods.common import exported, normal
from tests.exporter.methods.common import uniform as between


@pytest.mark.parametrize("slots", [1, 4, 7, 9])
def test_slots_take_what_is_chosen_in_order(slots):
    chosen = torch.tensor([[[0, 1, 1, 0, 0, 1, 0]], [[0] * 7], [[1] * 7]]) > 0
    want = [[1, 2, 5], [], [*range(7)]]
    want = [(row + [EMPTY] * 9)[:slots] for row in want]
    assert packed(chosen, slots)[:, 0].tolist() == want
    assert exported(lambda flags: packed(flags > 0, slots), chosen.float())[:, 0].tolist() == want


def test_distances_are_torch_s_own_and_zero_to_oneself():
    rows = normal(2, 3, 9, 16)
    assert torch.allclose(distances(rows), torch.cdist(rows, rows).square() / 16, atol=1e-5)
    assert distances(100 + rows).diagonal(dim1=-2, dim2=-1).count_nonzero() == 0


def test_a_peak_is_dense_and_far_from_what_is_denser():
    rows = torch.cat([0.1 * normal(6, 4), 0.2 * normal(6, 4, seed=1) + 5, 9 * between(1, 4, seed=2) - 20])
    best = peaks(rows, 4).topk(2).indices
    assert sorted((best // 6).tolist()) == [0, 1]
    assert peaks(rows[:2], 4).shape == (2,)  # fewer rows than neighbours


def test_equal_densities_are_not_denser_than_each_other():
    rows = torch.eye(3)  # all as far from each other
    assert peaks(rows, 3).unique().numel() == 1


def test_uniform_segments_leave_the_rest_to_the_last():
    assert uniform(7, 3)[0].int().tolist()[6] == [0, 0, 0, 0, 0, 0, 1]
    assert uniform(7, 3)[0].int().tolist()[1] == [1, 1, 1, 0, 0, 0, 0]


def test_dynamic_segments_cut_below_the_threshold_and_at_the_least_alike():
    angle = torch.tensor([0.0, 0.1, 0.3, 0.4, 1.9, 1.95]).cumsum(0)
    features = torch.stack([angle.cos(), angle.sin()], -1)[None]
    first = [dynamic(features, least, 0.5)[0].int().argmax(-1).tolist() for least in (1, 2, 3, 6)]
    assert first == [[0, 0, 0, 0, 4, 5], [0, 0, 0, 0, 4, 5], [0, 0, 0, 0, 4, 5], [0, 1, 2, 3, 4, 5]]
    still = dynamic(torch.ones(1, 4, 2), 3, 0.9)[0].int().argmax(-1).tolist()
    assert still == [0, 1, 2, 2]  # ties: the first neighbours


@pytest.mark.parametrize(
    ("frames", "period", "quota"),
    [
        (4, 4, [0, 0, 0, 20]),
        (7, 3, [11, 0, 0, 11, 0, 0, 11]),  # floor(5 * 7 / 3)
        (5, 9, [0, 0, 0, 0, 25]),
        (3, 1, [5, 5, 5]),
    ],
)
def test_anchors_count_from_the_end_and_share_the_segment_s_tokens(frames, period, quota):
    found = anchors(uniform(frames, frames), list(range(frames)), period, 5)
    assert found.quota.tolist() == [quota]
    own = torch.eye(frames).bool()
    assert torch.equal(found.reach[0, -1], own[-1] if period == 1 else torch.ones(frames).bool())
