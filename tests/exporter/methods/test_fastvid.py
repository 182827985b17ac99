"""FastVID: recorded vectors for the exact form, a plain loop over segments for both."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.density import peaks
from exporter.methods.fastvid import FastVID
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import (
    cls_taps,
    exported,
    golden_paths,
    hidden_taps,
    in_turn,
    normal,
    play_case,
    uniform,
)


def selected(video, attention, keep, **parameters):
    """Selection for rows `[B,F,L,D]` and attention `[B,F,L]`."""
    carry = {"attention": attention.flatten(1)[:, None]}
    taps = hidden_taps(video.flatten(1, 2), views=video.shape[1], video=True, carry=carry)
    reducer = FastVID(**parameters)
    look, stage = reducer.plan(taps.shape, Budget(str(keep)))
    assert look == Stage("tower", 0)
    return reducer.select(taps, stage)


def rows_of(selection, video):
    """Kept indices `[B,K]` and rows `[B,K,D]`."""
    spans = video.flatten(1, 2)
    indices = selection.indices[:, 0]
    if selection.mix is not None:
        return indices, selection.mix[:, 0] @ spans
    return indices, spans.gather(1, indices.clamp(min=0)[..., None].expand(-1, -1, spans.shape[-1]))


def by_hand(video, attention, each, cuts, *, period=4, share=0.4, alpha=0.6):
    """One video `[F,L,D]`, whose segments end behind `cuts`, token by token: {index: row}."""
    views, patches, _ = video.shape
    context, flat = int(each * share), video.flatten(0, 1)
    salient = [set(row.topk(each - context).indices.tolist()) for row in attention]
    rest = [[f * patches + i for i in range(patches) if i not in salient[f]] for f in range(views)]
    out = {f * patches + i: flat[f * patches + i] for f in range(views) for i in salient[f]}
    begins = [0, *(cut + 1 for cut in cuts)]
    for begin, end in zip(begins, [*cuts, views - 1], strict=True):
        frames = range(begin, end + 1)
        anchored = frames[::-1][::period]
        quota = context * len(frames) // len(anchored)
        for frame in anchored:
            best = peaks(flat[rest[frame]], 4).topk(quota).indices
            into = sorted(rest[frame][i] for i in best)
            joined = {target: [] for target in into}
            for source in [i for f in ([frame] if quota == context else frames) for i in rest[f]]:
                alike = torch.nn.functional.cosine_similarity(flat[source][None], flat[into], dim=-1)
                joined[source if source in joined else into[int(alike.argmax())]].append(source)
            for target, members in joined.items():
                weight = max(1 / (len(members) + 1), alpha)
                out[target] = weight * flat[target] + (1 - weight) * flat[members].mean(0)
    return out


def check(selection, video, wanted):
    indices, rows = rows_of(selection, video)
    for found, row, want in zip(indices, rows, wanted, strict=True):
        assert found[: len(want)].tolist() == sorted(want)
        assert (found[len(want) :] == -2).all()
        assert torch.allclose(row[: len(want)], torch.stack([want[i] for i in sorted(want)]), atol=1e-5)
        assert row[len(want) :].count_nonzero() == 0


@pytest.mark.parametrize("path", golden_paths("fastvid"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 6


@pytest.mark.parametrize(
    ("views", "cuts", "parameters"),
    [
        (8, [3], {}),
        (9, [3, 7], {}),  # the last frame is a segment of its own
        (6, [3], {"alpha": 0.1}),
        (4, [0, 1, 2], {"period": 1}),
        (5, [1, 3], {"period": 2, "share": 0.5}),
    ],
)
def test_uniform_segments(views, cuts, parameters):
    video, attention = normal(2, views, 20, 8), uniform(2, views, 20)
    names = {"period": "dtm_p", "alpha": "dtm_alpha", "share": "stprune_d"}
    selection = selected(video, attention, 6 * views, **{names[name]: value for name, value in parameters.items()})
    check(selection, video, [by_hand(v, a, 6, cuts, **parameters) for v, a in zip(video, attention, strict=True)])


def test_segments_of_the_data_and_slots_that_rounding_leaves_empty():
    scenes = normal(2, 3, 1, 8, seed=3) * 4
    lengths = torch.tensor([[3, 1, 3], [5, 1, 1]])
    frames = torch.stack([scene.repeat_interleave(n, 0) for scene, n in zip(scenes, lengths, strict=True)])
    video, attention = 0.5 * normal(2, 7, 20, 8) + frames, uniform(2, 7, 20)
    selection = selected(video, attention, 7 * 8, mode="exact", dyseg_c=3, dyseg_tau=-1.0, dtm_p=2)
    wanted = [
        by_hand(video[0], attention[0], 8, [2, 3], period=2),
        by_hand(video[1], attention[1], 8, [4, 5], period=2),
    ]
    assert [len(want) for want in wanted] == [7 * 8 - 2, 7 * 8]
    check(selection, video, wanted)


@pytest.mark.parametrize("keep", [6, 11, 12, 60, 114, 119, 120])
@pytest.mark.parametrize("mode", ["uniform", "exact"])
def test_every_budget_gives_every_frame_its_share(keep, mode):
    video, attention = normal(2, 6, 20, 8), uniform(2, 6, 20)
    indices, _ = rows_of(selected(video, attention, keep, mode=mode, dyseg_c=2, dyseg_tau=0.0), video)
    assert indices.shape == (2, keep // 6 * 6)
    for row in indices:
        real = row[row >= 0]
        assert (real.diff() > 0).all()
        assert mode == "exact" or len(real) == len(row)


def test_everything_kept_is_unchanged():
    video, attention = normal(1, 6, 20, 8), uniform(1, 6, 20)
    indices, rows = rows_of(selected(video, attention, 120), video)
    assert indices.tolist() == [list(range(120))]
    assert torch.equal(rows, video.flatten(1, 2))


def test_equal_tokens_go_by_the_lower_index():
    video, attention = torch.ones(1, 4, 20, 4), torch.ones(1, 4, 20)
    want = [0, 1, 2, 20, 21, 22, 40, 41, 42, *range(60, 71)]  # three of each frame, then two for each in the last

    def kept(video, attention):
        selection = selected(video, attention, 20)
        return {"kept": selection.indices, "mix": selection.mix}

    found = kept(video, attention)
    assert found["kept"].flatten().tolist() == want
    assert found["mix"][0, 0, want.index(63)].count_nonzero() == 4 * 17 - 7  # all but what are targets themselves
    assert torch.equal(exported(kept, video, attention)["kept"], found["kept"])


@pytest.mark.parametrize("mode", ["uniform", "exact"])
def test_batch_equals_one_at_a_time(mode):
    video, attention = normal(3, 6, 20, 8), uniform(3, 6, 20)

    def rows(video, attention):
        return rows_of(selected(video, attention, 42, mode=mode, dyseg_c=2, dyseg_tau=0.0), video)[1]

    assert torch.allclose(rows(video, attention), in_turn(rows, video, attention), atol=1e-6)


def test_attention_comes_from_the_tower():
    rows = uniform(3, 2, 17)
    found = FastVID().select(cls_taps(rows), Stage("tower", 0)).carry["attention"]
    assert torch.allclose(found[:, 0], rows[:, :, 1:].mean(1))


def test_the_plan():
    shape = Shape(196, Grid(14, 14), tower_layers=27, tower_last=25, views=32, video=True)
    look = Stage("tower", 25)
    assert FastVID().plan(shape, Budget("10%")) == (look, Stage("projected", keep=608))
    assert FastVID(retention_ratio=0.1).plan(shape, Budget("1")) == (look, Stage("projected", keep=608))
    assert FastVID("exact").plan(shape, Budget("640")) == (look, Stage("projected", keep=640, blanks=True))
    with pytest.raises(UserError, match="give --keep 32 or more"):
        FastVID().plan(shape, Budget("31"))
    with pytest.raises(UserError, match="32 frames are fewer than 33 segments"):
        FastVID("exact", dyseg_c=33).plan(shape, Budget("640"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "topc"),
        ("dtm_p", "0"),
        ("dyseg_c", "0"),
        ("stprune_d", "1.5"),
        ("retention_ratio", "2"),
        ("dtm_p", "x"),
    ],
)
def test_bad_parameters_are_one_line(name, value):
    with pytest.raises(UserError, match=name) as caught:
        method("fastvid", {name: value})
    assert "\n" not in str(caught.value)
