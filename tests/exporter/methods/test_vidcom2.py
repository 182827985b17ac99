"""VidCom2 against the official code and vLLM's, whose count is exact."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.vidcom2 import VidCom2, counts, typical
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case


def kept(video, keep, mode="vllm", **parameters):
    """Of rows `[B,F,L,C]`: `[B,slots]`, `keep` and what the mode adds."""
    taps = hidden_taps(video.flatten(1, 2), views=video.shape[1], video=True)
    reducer = VidCom2(mode, **parameters)
    (stage,) = reducer.plan(taps.shape, Budget(str(keep)))
    return reducer.select(taps, stage).indices[:, 0]


def reconciled(video, rate, keep):
    """vLLM's rule step by step, of one video `[F,L,C]`."""
    near_video, near_frame = (near[0] for near in typical(video[None]))
    scores, each = (near_video + near_frame).flatten().tolist(), counts(near_video[None], rate)[0].int().tolist()
    patches, chosen = video.shape[1], set()
    for frame, count in enumerate(each):
        places = range(frame * patches, (frame + 1) * patches)
        chosen |= set(sorted(places, key=scores.__getitem__)[:count])
    if len(chosen) > keep:
        return sorted(sorted(chosen, key=scores.__getitem__)[:keep])
    others = sorted(set(range(len(scores))) - chosen, key=scores.__getitem__)
    return sorted(chosen | set(others[: keep - len(chosen)]))


@pytest.mark.parametrize("path", golden_paths("vidcom2"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 6


@pytest.mark.parametrize("keep", [6, 7, 40, 77, 119, 120])
def test_every_budget_keeps_that_many_in_order(keep):
    video = normal(2, 6, 20, 16) + normal(2, 6, 1, 16, seed=1)
    found = kept(video, keep)
    assert found.shape == (2, keep)
    assert (found.diff(dim=-1) > 0).all()
    assert found.tolist() == [reconciled(one, keep / 120, keep) for one in video]


def test_the_official_count_is_what_the_frames_add_up_to():
    video = normal(2, 6, 20, 16) + normal(2, 6, 1, 16, seed=1)
    slots = kept(video, 31, "official")
    each = counts(typical(video)[0], 31 / 120)
    assert slots.shape == (2, 37)
    for row, count in zip(slots, each, strict=True):
        real = row[: int(count.sum())]
        assert (row[len(real) :] == -2).all()
        assert torch.bincount(real // 20, minlength=6).tolist() == count.tolist()
        assert (real.diff() > 0).all()


@pytest.mark.parametrize("keep", [6, 119, 120])
def test_the_official_slots_hold_every_frame_s_tokens(keep):
    slots = kept(normal(1, 6, 20, 16), keep, "official")
    assert slots.shape == (1, keep + 6)
    assert (torch.bincount(slots[slots >= 0] // 20, minlength=6) > 0).all()


def test_equal_tokens_go_by_the_lower_index():
    still = torch.ones(1, 3, 4, 8)
    assert kept(still, 6).tolist() == [[0, 1, 4, 5, 8, 9]]
    assert exported(lambda video: kept(video, 6), still).tolist() == [[0, 1, 4, 5, 8, 9]]


def test_batch_equals_one_at_a_time():
    video = normal(3, 5, 12, 16)
    for mode in ("vllm", "official"):
        assert torch.equal(kept(video, 20, mode), in_turn(lambda one, mode=mode: kept(one, 20, mode), video))


def test_noisy_channels_do_not_matter():
    video = normal(1, 5, 12, 16)
    louder = video.clone()
    loud = video.flatten(1, 2).var(1, unbiased=False).topk(8).indices[0]
    louder[..., loud] *= 7
    assert torch.equal(kept(video, 20), kept(louder, 20))


def test_the_plan_follows_the_budget_or_the_rate():
    shape = Shape(196, Grid(14, 14), views=32, video=True)
    assert VidCom2().plan(shape, Budget("25%")) == (Stage("projected", keep=1568),)
    assert VidCom2().plan(shape, Budget("3")) == (Stage("projected", keep=32),)
    assert VidCom2(r_ratio=0.25).plan(shape, Budget("9")) == (Stage("projected", keep=1568),)
    assert VidCom2("official").plan(shape, Budget("25%")) == (Stage("projected", keep=1600, blanks=True),)


@pytest.mark.parametrize(("name", "value"), [("mode", "paper"), ("r_ratio", "0"), ("r_ratio", "1.1"), ("r_ratio", "x")])
def test_bad_parameters_are_one_line(name, value):
    with pytest.raises(UserError, match=name) as caught:
        method("vidcom2", {name: value})
    assert "\n" not in str(caught.value)
