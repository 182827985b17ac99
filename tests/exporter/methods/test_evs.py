"""EVS: the first frame, then what changed most, against vLLM's own functions."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.evs import EVS
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case


def kept(video, keep):
    """Of rows `[B,F,L,D]`: `[B,keep]`."""
    taps = hidden_taps(video.flatten(1, 2), views=video.shape[1], video=True)
    return EVS().select(taps, Stage("projected", keep=keep)).indices[:, 0]


def planned(views, patches, keep="50%", **parameters):
    shape = Shape(patches, Grid(1, patches), views=views, video=True)
    (stage,) = EVS(**parameters).plan(shape, Budget(keep))
    return stage


def frozen(views, patches):
    """Every frame the same, of unit rows: all cosines are exactly 1."""
    return torch.eye(patches).expand(1, views, -1, -1).clone()


@pytest.mark.parametrize("path", golden_paths("evs"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def test_a_still_picture_keeps_its_earliest_tokens():
    assert kept(frozen(4, 6), 9).tolist() == [list(range(9))]
    assert exported(lambda video: kept(video, 9), frozen(4, 6)).tolist() == [list(range(9))]


def test_what_moved_is_kept_and_compared_with_the_frame_before():
    video = frozen(5, 6)
    video[0, 2, 3] = -video[0, 2, 3]  # turns at frame 2 and back at frame 3
    assert kept(video, 8).tolist() == [[0, 1, 2, 3, 4, 5, 15, 21]]


def test_a_slow_drift_is_pruned_before_a_small_jump():
    angles = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0, 0.15]])
    video = torch.stack([angles.cos(), angles.sin()], -1).transpose(0, 1)[None]
    assert kept(video, 3).tolist() == [[0, 1, 11]]


@pytest.mark.parametrize("keep", [6, 7, 23, 24])
def test_every_budget_from_one_frame_keeps_that_many_in_order(keep):
    found = kept(normal(2, 4, 6, 8), keep)
    assert found.shape == (2, keep)
    assert (found.diff(dim=-1) > 0).all()
    assert found[:, :6].tolist() == [list(range(6))] * 2


def test_batch_equals_one_at_a_time():
    video = normal(3, 4, 6, 8)
    assert torch.equal(kept(video, 11), in_turn(lambda one: kept(one, 11), video))


def test_the_kept_places_follow_a_permutation_of_places():
    video, order = normal(1, 4, 6, 8), torch.randperm(6, generator=torch.Generator().manual_seed(3))
    moved = kept(video[:, :, order], 13)
    assert torch.equal((moved // 6 * 6 + order[moved % 6]).sort().values, kept(video, 13))


def test_the_plan_keeps_a_frame_or_more():
    assert planned(8, 60) == Stage("projected", keep=240)
    assert planned(8, 60, "7").keep == 60
    assert planned(8, 60, "100%").keep == 480


def test_a_rate_truncates_as_a_double():
    assert planned(60, 8, q=0.9).keep == 47  # 480 * (1 - 0.9) is 47.999...
    assert planned(8, 60, q=0.9).keep == 60
    assert planned(8, 60, q=0).keep == 480


@pytest.mark.parametrize("rate", ["1", "-0.1", "nan", "high"])
def test_a_bad_rate_is_one_line(rate):
    with pytest.raises(UserError, match="q is a rate"):
        method("evs", {"q": rate})


def test_pictures_are_refused():
    with pytest.raises(UserError, match="video"):
        make_plan("evs", EVS(), Shape(60, Grid(6, 10)), Budget("30"))
