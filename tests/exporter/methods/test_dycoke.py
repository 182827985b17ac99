"""DyCoke's first stage: which frames are pruned, against which, and in which order."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.dycoke import DyCoke
from exporter.reducer import Grid, Shape
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case


def shaped(views, patches):
    return Shape(patches, Grid(1, patches), views=views, video=True)


def kept(video, keep, **parameters):
    """Of rows `[B,F,L,D]`: `[B,K]`, K the plan's."""
    taps = hidden_taps(video.flatten(1, 2), views=video.shape[1], video=True)
    reducer = DyCoke(**parameters)
    (stage,) = reducer.plan(taps.shape, Budget(str(keep)))
    found = reducer.select(taps, stage).indices[:, 0]
    assert found.shape[1] == stage.keep
    return found


def planned(views, patches, keep="1", **parameters):
    (stage,) = DyCoke(**parameters).plan(shaped(views, patches), Budget(keep))
    return stage.keep


@pytest.mark.parametrize("path", golden_paths("dycoke"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


@pytest.mark.parametrize(
    ("views", "counts"),
    [
        (5, [4, 1, 1, 1, 0]),
        (6, [4, 1, 1, 1, 4, 1]),
        (8, [4, 1, 1, 1, 4, 1, 4, 1]),  # the last group of four keeps its third frame
        (9, [4, 1, 1, 1, 4, 1, 1, 1, 0]),  # unless a frame is odd, which is lost itself
        (10, [4, 1, 1, 1, 4, 1, 1, 1, 4, 1]),
    ],
)
def test_frames_keep_all_or_their_share(views, counts):
    video = normal(1, views, 4, 8)
    found = kept(video, 1, merging_ratio=0.7)
    assert torch.bincount(found[0] // 4, minlength=views).tolist() == counts
    assert (found.diff(dim=-1) > 0).all()


def test_the_count_is_the_paper_s():
    assert planned(32, 196, merging_ratio=0.7) == 3098  # 58 of 196: int(0.30000000000000004 * 196)
    assert planned(8, 36, merging_ratio=0.7) == 158


def test_a_budget_gives_every_pruned_frame_the_same():
    assert planned(32, 196, "3098") == 3098
    assert planned(32, 196, "3097") == 3098 - 23
    assert planned(32, 196, "100%") == 32 * 196
    assert planned(9, 25, "100%") == 8 * 25  # the last frame of nine is never kept


@pytest.mark.parametrize("keep", [3 * 12 + 5, 60, 95, 96])
def test_every_possible_budget_comes_within_a_token_a_frame(keep):
    found = kept(normal(2, 8, 12, 4), keep)
    assert keep - 5 < found.shape[1] <= keep
    assert all(len(set(row)) == len(row) for row in found.tolist())


def test_less_than_the_whole_frames_is_refused():
    with pytest.raises(UserError, match="give --keep 41 or more"):
        planned(8, 12, "40")
    with pytest.raises(UserError, match="merging_ratio"):
        planned(8, 12, merging_ratio=0.99)


def test_fewer_than_five_frames_are_refused():
    with pytest.raises(UserError, match="not 4"):
        planned(4, 12, "40")


def test_the_least_similar_places_stay_in_either_order():
    video = torch.tensor([1.0, 0.0]).repeat(1, 5, 4, 1)
    turned = torch.tensor([0.3, 0.9, 0.1, 0.6])  # frame 1 turns by this
    video[0, 1] = torch.stack([turned.cos(), turned.sin()], -1)
    spatial, alike = (kept(video, 1, merging_ratio=0.5, order=order)[0, 4:6] for order in ("spatial", "similarity"))
    assert (spatial - 4).tolist() == [1, 3]
    assert (alike - 4).tolist() == [1, 3]
    video[0, 1] = video[0, 1].flip(0)
    assert (kept(video, 1, merging_ratio=0.5, order="similarity")[0, 4:6] - 4).tolist() == [2, 0]


def test_ties_go_to_the_lower_index():
    still = torch.eye(6).expand(1, 5, -1, -1).clone()
    for order in ("spatial", "similarity"):
        found = kept(still, 1, merging_ratio=0.5, order=order)
        assert found.tolist() == [[*range(6), 6, 7, 8, 12, 13, 14, 18, 19, 20]]
        graph = exported(lambda video, order=order: kept(video, 1, merging_ratio=0.5, order=order), still)
        assert torch.equal(graph, found)


def test_batch_equals_one_at_a_time():
    video = normal(3, 9, 12, 4)
    assert torch.equal(kept(video, 70), in_turn(lambda one: kept(one, 70), video))


@pytest.mark.parametrize(("name", "value"), [("order", "time"), ("merging_ratio", "1"), ("merging_ratio", "-0.1")])
def test_bad_parameters_are_one_line(name, value):
    with pytest.raises(UserError, match=name) as caught:
        method("dycoke", {name: value})
    assert "\n" not in str(caught.value)
