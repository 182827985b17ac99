"""MustDrop's merge: its windows, the order of rows, and the forms of it."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.panes import similarity
from exporter.methods.mustdrop import MustDrop
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from exporter.sequence import Sequence, cut
from exporter.stack import Stack, Walk
from tests.exporter.methods.common import golden_paths, in_turn, normal, play_case
from tests.exporter.tiny_stack import Layer

GRID = Grid(6, 9)
CLIP = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32)


def vision(**parameters):
    """LightCompress' form."""
    return MustDrop(stages="vision", **parameters)


def reduced(rows, keep="30", grid=GRID, **parameters):
    """Selection and stage for rows `[B,1+N,C]` of a tower with [CLS]."""
    shape = Shape(grid.rows * grid.cols, grid)
    reducer = vision(**parameters)
    (stage,) = reducer.plan(shape, Budget(keep))
    taps = EagerTaps((1,), shape.patches, shape.patches + 1, {0: Seen({"out": rows})}, shape, batch=len(rows))
    return reducer.select(taps, stage), stage


def after(rows, keep="30", **parameters):
    """The rows behind the cut, `[B,1+K,C]`."""
    selection, stage = reduced(rows, keep, **parameters)
    width = rows.shape[1] - 1
    origin = torch.arange(width).expand(len(rows), 1, -1)
    return cut(Sequence(rows, 1, width, origin), stage, selection, renumber=True).hidden


def by_hand(rows, merged):
    """One picture `[N,C]`, window by window of 3x3 in a 6x9 grid."""
    places = [
        [9 * (3 * down + y) + 3 * right + x for y in range(3) for x in range(3)]
        for down in (0, 1)
        for right in (0, 1, 2)
    ]
    alike = [torch.nn.functional.cosine_similarity(rows[p][:, None], rows[p][None], dim=-1) for p in places]
    score = [(float(a.sum()) - 9) / 72 for a in alike]
    best = sorted(range(6), key=lambda w: -score[w])[:merged]
    gone = {place for window in best for place in places[window]}
    single = [place for place in range(54) if place not in gone]
    return torch.cat([torch.stack([rows[places[w]].mean(0) for w in best]), rows[single]]), single


@pytest.mark.parametrize("path", golden_paths("mustdrop"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 10


def test_merged_windows_come_first_then_single_patches():
    rows = normal(2, 55, 8) + 1
    found = after(rows)
    assert found.shape == (2, 31, 8)
    assert torch.equal(found[:, 0], rows[:, 0])
    for picture, got in zip(rows, found, strict=True):
        want, _ = by_hand(picture[1:], 3)
        assert torch.allclose(got[1:], want, atol=1e-6)


def test_a_merged_row_stands_at_its_window_s_last_patch():
    rows = normal(1, 55, 8) + 1
    indices = reduced(rows)[0].indices[0, 0].tolist()
    _, single = by_hand(rows[0, 1:], 3)
    assert indices[3:] == single
    assert all(place // 9 % 3 == 2 and place % 3 == 2 for place in indices[:3])


def test_the_unmerged_form_keeps_those_patches_in_order_of_place():
    rows = normal(1, 55, 8) + 1
    selection = reduced(rows, merge=False)[0]
    assert selection.mix is None
    assert selection.indices[0, 0].tolist() == sorted(reduced(rows)[0].indices[0, 0].tolist())


@pytest.mark.parametrize(("keep", "left"), [("54", 54), ("48", 54), ("47", 46), ("46", 46), ("7", 6), ("6", 6)])
def test_budgets_in_steps_of_a_window(keep, left):
    selection, stage = reduced(normal(1, 55, 8), keep)
    assert stage == Stage("tower", 0, keep=left)
    assert selection.indices.shape == (1, 1, left)
    assert torch.allclose(selection.mix.sum(-1), torch.ones(1, 1, left))


def test_the_papers_budgets():
    kept = [vision().plan(CLIP, Budget(keep))[0].keep for keep in ("192", "128", "64")]
    assert kept == [192, 128, 64]
    assert vision(layer=-1).plan(CLIP, Budget("192")) == (Stage("tower", 22, keep=192),)
    with pytest.raises(UserError, match="give 64 of 576 or more"):
        vision().plan(CLIP, Budget("56"))


def test_without_cls_only_patches_count():
    shape = Shape(54, GRID, has_cls=False)
    assert vision().plan(shape, Budget("47"))[0].keep == 54
    assert vision().plan(shape, Budget("46"))[0].keep == 46


def test_windows_that_do_not_tile_are_refused():
    with pytest.raises(UserError, match="3x3 do not tile 14x14"):
        MustDrop().plan(Shape(196, Grid(14, 14)), Budget("50"))
    assert vision(window="2x7").plan(Shape(196, Grid(14, 14)), Budget("50"))[0].keep == 53


def test_a_threshold_leaves_empty_slots_that_nobody_sees():
    rows = normal(2, 55, 8) + 0.5
    alike = similarity(rows[:, None, 1:], GRID, Grid(3, 3))[:, 0]
    threshold = float(alike.sort(dim=-1).values[:, 2:4].mean())
    selection, stage = reduced(rows, threshold=threshold)
    assert stage == Stage("tower", 0, keep=54, blanks=True)
    for b, merged in enumerate((alike >= threshold).sum(-1).tolist()):
        real = 54 - 8 * merged
        want, _ = by_hand(rows[b, 1:], merged)
        assert (selection.indices[b, 0, real:] == -2).all()
        assert selection.indices[b, 0, :real].min() >= 0
        assert (selection.key_bias[b, 0] == torch.where(torch.arange(54) < real, 0, -1e4)).all()
        assert torch.allclose(after(rows, threshold=threshold)[b, 1 : 1 + real], want, atol=1e-6)


@pytest.mark.parametrize("merge", [True, False])
def test_empty_slots_do_not_change_the_layers_behind(merge):
    """The same three windows by their number and by a threshold, behind layer 0 of two."""
    blocks, shape = tuple(Layer(seed).block() for seed in (1, 2)), Shape(54, GRID, tower_layers=2, tower_last=1)
    start = Sequence(normal(1, 55, 8), 1, 54, torch.arange(54)[None, None])

    def run(reducer, stages, layers):
        return Walk(Stack("tower", blocks), reducer, stages, shape, start).run(layers).hidden

    seen = run(vision(), (), 1)[:, None, 1:]
    threshold = float(similarity(seen, GRID, Grid(3, 3)).flatten().sort().values[2:4].mean())
    forms = vision(merge=merge), vision(merge=merge, threshold=threshold)
    fixed, adaptive = (run(form, form.plan(shape, Budget("30")), 2) for form in forms)
    assert fixed.shape == (1, 31, 8)
    assert torch.allclose(adaptive[:, :31], fixed, atol=1e-5)


def test_equal_windows_merge_by_the_lower_index():
    assert reduced(torch.ones(1, 55, 8), "38")[0].indices[0, 0, :2].tolist() == [20, 23]


def test_batch_equals_one_at_a_time():
    rows = normal(3, 55, 8)
    assert torch.equal(after(rows), in_turn(after, rows))


def test_a_permutation_inside_windows_only_moves_single_patches():
    rows = normal(1, 55, 8) + 1
    upside = torch.arange(54).reshape(2, 3, 9).flip(1).flatten()
    turned = torch.cat([rows[:, :1], rows[:, 1:][:, upside]], 1)
    assert torch.allclose(after(turned)[:, 1:4], after(rows)[:, 1:4], atol=1e-6)


@pytest.mark.parametrize("window", ["3", "3x", "x", "1x1", "0x3", "-1x3", "3x3x3", "²x2"])
def test_a_bad_window_is_one_line(window):
    with pytest.raises(UserError, match="window") as caught:
        method("mustdrop", {"window": window})
    assert "\n" not in str(caught.value)
