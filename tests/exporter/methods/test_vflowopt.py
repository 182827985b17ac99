"""VFlowOpt: importance in the tower, cells that merge, and budgets between the authors'."""

import math
from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.cells import cells, condensed, fields
from exporter.maths.focus import entropies, focus
from exporter.maths.searched import scalars
from exporter.methods.vflowopt import Tuned, VFlowOpt
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from exporter.tiles import list_places
from tests.exporter.methods.common import attention, golden_paths, hidden_taps, map_taps, normal, play_case, uniform

SIGLIP = Grid(27, 27)
ONE = Shape(729, SIGLIP, tower_layers=27, tower_last=25, decoder_layers=28, has_cls=False)
TILES = replace(ONE, views=5, places=list_places(SIGLIP, (2, 2)))


def plan(keep, shape=ONE, **fields):
    return make_plan("vflowopt", VFlowOpt(**fields), shape, Budget(keep))


@pytest.mark.parametrize("path", golden_paths("vflowopt"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 6


def test_global_tokens_look_for_all():
    maps = attention(1, 2, 9, 9)
    seen = maps[0].mean(0)
    chosen = seen.mean(0) > 1.1 * seen.mean(0).mean()
    assert 1 < chosen.sum() < 9
    torch.testing.assert_close(focus(map_taps(maps, has_cls=False), 0, 1.1)[0, 0], seen[chosen].mean(0))


def test_where_nobody_receives_enough_the_first_does_and_cls_never():
    maps = attention(2, 2, 10, 10)
    maps[..., 0] += 5
    seen = maps.mean(1)
    best = seen[:, :, 1:].mean(1).argmax(1) + 1
    wanted = torch.stack([one[row, 1:] for one, row in zip(seen, best, strict=True)])
    torch.testing.assert_close(focus(map_taps(maps), 0, 50.0)[:, 0], wanted)


def test_entropy_by_hand_below_zero_too():
    pixels = 2 * uniform(2, 3, 13, 9) - 1
    found = entropies(pixels, Grid(3, 2)).reshape(2, 3, 2)  # patches of 4 x 4, the rest is left out
    for one, picture in zip(found, pixels, strict=True):
        for row in range(3):
            for col in range(2):
                patch = picture[:, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4].reshape(3, 16)
                levels = [round(0.3333 * sum(math.trunc(v * 255) % 256 for v in px)) for px in patch.T.tolist()]
                shares = [levels.count(level) / 16 for level in set(levels)]
                assert abs(float(one[row, col]) + sum(p * math.log2(p) for p in shares)) < 1e-5


def test_entropy_is_added_as_shares():
    maps, pixels = attention(1, 2, 9, 9), uniform(1, 3, 12, 12)
    taps = map_taps(maps, has_cls=False, inputs={"pixels": pixels})
    stage = Tuned("tower", 0, t=1.1)
    plain, both = (VFlowOpt(alpha_v=a).select(taps, stage).carry["importance"][0, 0] for a in (0.0, -0.5))
    torch.testing.assert_close(both - plain, -0.5 * entropies(pixels, Grid(3, 3))[0].softmax(-1))


def test_the_pixels_are_needed_for_entropy_alone():
    assert VFlowOpt().needs == set()
    assert VFlowOpt(alpha_v=0.1).needs == {"pixels"}


def test_cells_are_of_the_whole_picture_and_of_the_canvas():
    shape = Shape(9, Grid(3, 3), views=3, places=list_places(Grid(3, 3), (1, 2)))
    assert fields(shape) == (Grid(3, 3), Grid(3, 6))
    assert fields(replace(shape, views=3, places=list_places(Grid(3, 3), (2, 1)))) == (Grid(3, 3), Grid(6, 3))
    assert cells(fields(shape), 2.5) == (0, 0, 0, 0, 0, 0, 0, 0, 0, *[1, 1, 1, 2, 2, 3] * 3)
    assert cells((Grid(3, 3),), 2.0) == (0, 0, 1, 0, 0, 1, 2, 2, 3)


def by_hand(rows, importance, cell, plain):
    """Kept tokens and their rows, without filling up."""
    order = importance.sort(descending=True, stable=True).indices.tolist()
    found = {place: rows[place] for place in order[:plain]}
    for number in sorted(set(cell)):
        lost = [place for place in order[plain:] if cell[place] == number]
        if lost:
            weights = importance[lost] / importance[lost].sum()
            found[lost[0]] = weights @ rows[lost]
    return sorted(found), torch.stack([found[place] for place in sorted(found)]), order


def test_what_goes_merges_into_the_best_of_its_cell():
    rows, importance, cell = normal(2, 54, 4).double(), uniform(2, 54), cells((Grid(3, 6), Grid(6, 6)), 2.0)
    wanted = [by_hand(r, i, cell, 20) for r, i in zip(rows, importance.double(), strict=True)]
    for number, (places, merged, _) in enumerate(wanted):
        kept, mix = condensed(importance[number : number + 1], cell, len(places), 20)
        assert kept[0].tolist() == places
        torch.testing.assert_close(mix[0].double() @ rows[number], merged, rtol=1e-5, atol=1e-6)


def test_cells_that_lose_nothing_give_their_place_to_the_next_best():
    cell = cells((Grid(1, 4), Grid(1, 8)), 4.0)
    importance = torch.tensor([[9.0, 8, 7, 6, 1, 5, 2, 3, 4, 0.5, 0.4, 0.3]]) / 10
    kept, mix = condensed(importance, cell, 4 + 3, 4)  # the first cell keeps all it has
    assert kept[0].tolist() == [0, 1, 2, 3, 5, 7, 8]
    assert mix[0, 4].nonzero()[:, 0].tolist() == [4, 5, 6, 7]
    assert mix[0, 5].tolist() == [0.0] * 7 + [1.0] + [0.0] * 4
    assert mix[0, 6].nonzero()[:, 0].tolist() == [8, 9, 10, 11]


def test_several_views_merge_one_is_cut_and_so_is_a_video():
    shape = Shape(9, Grid(3, 3), views=3, places=list_places(Grid(3, 3), (1, 2)))
    taps = hidden_taps(normal(1, 27, 4), views=3, carry={"importance": uniform(1, 1, 27)})
    best = uniform(1, 1, 27)[0, 0].topk(12).indices.sort().values.tolist()
    merged = VFlowOpt().select(replace(taps, shape=shape), Tuned("projected", keep=12, m=2.0))
    assert merged.mix.shape == (1, 1, 12, 27)
    video = VFlowOpt().select(replace(taps, shape=replace(shape, video=True)), Tuned("projected", keep=12, m=2.0))
    assert (video.mix, video.indices[0, 0].tolist()) == (None, best)


def test_the_decoder_keeps_the_most_important_and_ties_go_to_the_lower_index():
    carry = {"importance": torch.tensor([[[0.1, 0.5, 0.5, 0.2], [0.3, 0.3, 0.3, 0.3]]])}
    taps = hidden_taps(normal(1, 4, 4), carry=carry)
    assert VFlowOpt().select(taps, Stage("decoder", 8, keep=2)).indices.tolist() == [[[1, 2], [0, 1]]]


@pytest.mark.parametrize(
    ("keep", "left", "shares"),
    [("10%", 0.11662, (1.0, 0.6011)), ("25%", 0.26510, (0.98334, 0.87733)), ("50%", 0.72332, (0.74875, 0.487))],
)
def test_the_authors_budgets_have_their_scalars(keep, left, shares):
    look, entry, *cuts = plan(keep)
    assert (look.layer, look.t) == (25, {"10%": 39.265, "25%": 34.760, "50%": 28.683}[keep])
    counts = [729 - round(729 * (1 - left))]
    for share in shares:
        counts.append(counts[-1] - round(counts[-1] * (1 - share)))
    assert entry.keep == counts[0]
    layers = [(layer, count) for layer, count in zip((8, 17), counts[1:], strict=True) if count < entry.keep]
    assert [(cut.layer, cut.keep) for cut in cuts] == layers


@pytest.mark.parametrize("keep", ["3%", "10%", "17%", "25%", "40%", "50%", "75%", "99%"])
def test_the_budget_is_the_mean_over_the_layers(keep):
    total = 100000  # so that rounding does not matter
    share = float(keep.rstrip("%")) / 100
    found = scalars(total, Budget(keep).count(total))
    first, second = found.rho
    assert abs(found.r_v * (9 + 9 * first + 10 * first * second) / 28 - share) < 1e-3
    assert 0 < found.r_v < 1


def test_tiles_lose_as_many_as_the_authors_and_keep_one_of_each_cell():
    (entry,) = (stage for stage in plan("25%", TILES) if stage.stack == "projected")
    gone = round(3645 * (1 - 0.26510)) + int(3645 / 15.581**2)
    assert entry.keep == 3645 - gone + 4 + 16
    assert entry.m == 15.581


def test_all_tokens_are_the_dense_model():
    assert plan("100%") == plan("3645", TILES) == ()


def test_scalars_given_win():
    look, entry, *cuts = plan("100%", t=3, r_v=0.5, rho="0.9,0.5", layers="1,3")
    assert (look.t, entry.keep) == (3, 365)
    assert cuts == [Stage("decoder", 0, keep=329), Stage("decoder", 2, keep=165)]


@pytest.mark.parametrize(("layers", "behind"), [(2, [0]), (4, [1, 2]), (56, [16, 34])])
def test_other_depths(layers, behind):
    shape = replace(ONE, decoder_layers=layers, tower_layers=24, tower_last=22)
    look, _, *cuts = plan("25%", shape)
    assert look.layer == 22
    assert [cut.layer for cut in cuts] == behind
    assert cuts[-1].keep == plan("25%")[-1].keep


def test_layers_that_are_not_there():
    with pytest.raises(UserError, match="cannot cut behind layers 9,40 of 28"):
        plan("25%", layers="9,40")


MISTAKES = "t=-1 m=0.5 m=wide r_v=0 r_v=2 rho=0.5 rho=0.5,0 rho=a alpha_v=inf layers=4 layers=4,3"


@pytest.mark.parametrize("param", MISTAKES.split())
def test_a_mistake_is_one_line(param):
    with pytest.raises(UserError) as caught:
        method("vflowopt", dict([param.split("=")]))
    assert "\n" not in str(caught.value)
