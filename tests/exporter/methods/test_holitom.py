"""HoliTom: recorded vectors and a plain loop for the exact form; constant counts for the fixed one."""

from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import ceil

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.folding import fold
from exporter.methods.holitom import HoliTom
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import (
    attention,
    exported,
    golden_paths,
    hidden_taps,
    map_taps,
    normal,
    play_case,
    uniform,
)
from tests.exporter.methods.plain_decoder import causal
from tests.exporter.methods.scenery import peaks, rows_of, same, scenery
from tests.exporter.methods.small_decoder import WIDTH, small_decoder
from tools.goldens.decoders import play


def selected(video, weights, keep, **parameters):
    """Selection for rows `[B,F,L,D]` and attention `[B,F,L]`."""
    carry = {"attention": weights.flatten(1)[:, None]}
    taps = hidden_taps(video.flatten(1, 2), views=video.shape[1], video=True, carry=carry)
    reducer = HoliTom(**parameters)
    stage = reducer.plan(taps.shape, Budget(str(keep)))[1]
    return reducer.select(taps, stage)


def best(gain, views):
    """Windows of the most gain, by trying all; of equal ones the shorter last window."""

    @cache
    def until(end):
        if end < 0:
            return 0, ()
        options = [(start, until(start - 1)) for start in range(end, -1, -1)]
        values = [value + gain(start, end) for start, (value, _) in options]
        start, (_, before) = options[values.index(max(values))]
        return max(values), (*before, (start, end))

    return until(views - 1)


def by_hand(video, weights, keep, *, tau=0.8, beta=0.6, k=7):
    """One video `[F,L,D]`: a list of (index, row)."""
    views, patches, _ = video.shape
    alike = torch.nn.functional.cosine_similarity(video[1:], video[:-1], dim=-1) > tau

    def still(start, end):
        return [i for i in range(patches) if end > start and alike[start:end, i].all()]

    saved, windows = best(lambda start, end: len(still(start, end)) * (end - start), views)
    part, out = min(Fraction(keep, views * patches - saved), Fraction(1)), []
    for start, end in windows:
        places = still(start, end)
        means = video[start : end + 1].mean(0)[places]
        count = round(len(places) * part)
        if count:
            chosen, apart = peaks(means, min(k, count), count)
            chosen.sort()
            joined = {centre: [] for centre in chosen}
            for i in set(range(len(places))) - set(chosen):
                joined[min(chosen, key=lambda c, i=i: (apart[i][c], c))].append(i)
            for centre, others in joined.items():
                row = means[centre]
                row = beta * row + (1 - beta) * means[others].mean(0) if others else row
                out.append((start * patches + places[centre], row))
        moving = [i for i in range(patches) if i not in places]
        for frame in range(start, end + 1):
            order = sorted(moving, key=lambda i, f=frame: (-float(weights[f, i]), i))
            out += [(frame * patches + i, video[frame, i]) for i in sorted(order[: ceil(len(moving) * part)])]
    return out


@pytest.mark.parametrize("path", golden_paths("holitom"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 6


@pytest.mark.parametrize(("views", "patches", "keep"), [(7, 12, 30), (9, 16, 9), (6, 9, 54), (2, 9, 5)])
def test_exact_is_the_loop(views, patches, keep):
    video, weights = scenery(2, views, patches, seed=views), uniform(2, views, patches)
    wanted = [by_hand(one, weight, keep) for one, weight in zip(video, weights, strict=True)]
    same(selected(video, weights, keep, mode="exact"), video, wanted)


def test_exact_in_a_still_and_in_a_moving_video():
    weights = uniform(1, 5, 9)
    still = normal(1, 1, 9, 8).expand(-1, 5, -1, -1).contiguous()
    same(selected(still, weights, 4, mode="exact"), still, [by_hand(still[0], weights[0], 4)])
    assert (selected(still, weights, 9, mode="exact").indices[0, 0, :10] == torch.tensor([*range(9), -2])).all()
    moving = normal(1, 5, 9, 64)
    kept = selected(moving, weights, 45, mode="exact").indices[0, 0]
    assert kept[:45].tolist() == list(range(45))
    assert (kept[45:] == -2).all()


def test_windows_are_no_longer_than_allowed():
    still = normal(1, 1, 9, 8).expand(-1, 5, -1, -1).contiguous()
    mix = selected(still, uniform(1, 5, 9), 45, mode="exact", max_window=2).mix
    assert ((mix > 0).sum(-1).flatten() == torch.tensor([2] * 18 + [1] * 9 + [0] * (51 - 27))).all()


def test_the_fixed_graph_is_what_pytorch_gives():
    def run(video, weights):
        indices, rows = rows_of(selected(video, weights, 20, window=3), video)
        return {"indices": indices, "rows": rows}

    exported(run, scenery(2, 6, 9), uniform(2, 6, 9))


@pytest.mark.parametrize("parameters", [{"mode": "exact"}, {}])
def test_batch_equals_one_at_a_time(parameters):
    video, weights = scenery(3, 7, 16), uniform(3, 7, 16)
    together = selected(video, weights, 30, **parameters)
    for b in range(3):
        alone = selected(video[b : b + 1], weights[b : b + 1], 30, **parameters)
        assert torch.equal(together.indices[b : b + 1], alone.indices)
        torch.testing.assert_close(together.mix[b : b + 1], alone.mix)


@pytest.mark.parametrize("keep", [1, 2, 13, 60, 89, 90])
@pytest.mark.parametrize(("window", "still"), [(4, 0.5), (1, 0.5), (10, 1.0), (3, 0.0)])
def test_fixed_keeps_exactly_the_budget(keep, window, still):
    video = scenery(2, 10, 9)
    indices, rows = rows_of(selected(video, uniform(2, 10, 9), keep, window=window, still=still), video)
    assert indices.shape == (2, keep)
    assert all(len(set(line)) == keep and min(line) >= 0 for line in indices.tolist())
    assert rows.isfinite().all()
    if keep == 90:
        torch.testing.assert_close(rows, video.flatten(1, 2))


def test_fixed_rows_stand_window_by_window():
    video, weights = scenery(1, 6, 16), uniform(1, 6, 16)
    indices, rows = rows_of(selected(video, weights, 24, window=3), video)
    mix = selected(video, weights, 24, window=3).mix[0, 0]
    frames = (mix.reshape(24, 6, 16).sum(-1) > 0).sum(-1)
    assert frames.tolist() == [3] * 3 + [1] * 9 + [3] * 3 + [1] * 9  # T = 2 (8 + 3 * 8), of which 24 rows
    torch.testing.assert_close(mix.sum(-1), torch.ones(24))
    places = indices[0][frames == 1]
    assert (places.diff() > 0).all()
    assert torch.equal(rows[0][frames == 1], video[0].flatten(0, 1)[places])


def test_equal_attention_keeps_the_first_places():
    video = normal(1, 4, 9, 64)
    kept = selected(video, torch.ones(1, 4, 9), 12, mode="exact").indices[0, 0]
    assert kept[:12].tolist() == [f * 9 + i for f in range(4) for i in range(3)]


def test_attention_is_what_a_patch_receives():
    maps = attention(2, 3, 9, 9)
    (carried,) = HoliTom().select(map_taps(maps, has_cls=False), Stage("tower", 0)).carry.values()
    torch.testing.assert_close(carried, maps.mean((1, 2))[:, None])


SHAPE = Shape(196, Grid(14, 14), tower_layers=27, tower_last=25, decoder_layers=28, views=32, video=True)


def test_plan():
    look = Stage("tower", 25)
    plan = make_plan("holitom", HoliTom(), SHAPE, Budget("10%"))
    assert plan == (look, Stage("projected", keep=627), Stage("decoder", 17, keep=314))
    assert make_plan("holitom", HoliTom(inner=False), SHAPE, Budget("10%")) == plan[:2]
    assert HoliTom(retain_ratio=0.2, holitom_k=3).plan(SHAPE, Budget("1"))[1:] == (
        Stage("projected", keep=1254),
        Stage("decoder", 2, keep=627),
    )
    exact = HoliTom(mode="exact", retain_ratio=0.1)
    assert exact.plan(SHAPE, Budget("1")) == (look, Stage("projected", keep=667, blanks=True))  # 627.2 + 40
    with pytest.raises(UserError, match="decoder layer 40"):
        make_plan("holitom", HoliTom(holitom_k=41), SHAPE, Budget("10%"))
    with pytest.raises(UserError, match="2 or more"):
        HoliTom().plan(Shape(196, Grid(14, 14), video=True), Budget("10"))


@pytest.mark.parametrize(("layers", "after"), [(28, 17), (24, 15), (32, 19), (2, 0)])
def test_the_decoder_merges_at_the_same_depth(layers, after):
    assert HoliTom().plan(replace(SHAPE, decoder_layers=layers), Budget("10%"))[-1].layer == after


def test_all_tokens_are_the_dense_model():
    assert HoliTom().plan(SHAPE, Budget("100%"))[-1] == Stage("projected", keep=SHAPE.tokens)


def test_the_decoder_merges_where_rows_stand():
    decoder, rows, start, width = small_decoder(), normal(1, 30, WIDTH), 4, 20
    played = play(decoder, HoliTom(), (Stage("decoder", 0, keep=8),), rows, start, width)
    first = causal(decoder, 0, rows, torch.arange(30))
    seen = first.attention[:, -1, start : start + width].mean(0)
    kept = seen.sort(descending=True, stable=True).indices[:8].sort().values
    span = first.hidden[:, start : start + width]
    merged = fold(span[:, None], kept[None, None])[:, 0] @ span
    x = torch.cat([first.hidden[:, :start], merged, first.hidden[:, start + width :]], 1)
    places = torch.cat([torch.arange(start), kept + start, torch.arange(start + width, 30)])
    for layer in (1, 2):
        x = causal(decoder, layer, x, places).hidden
    torch.testing.assert_close(played.hidden, decoder.norm(x))
    assert played.lengths.tolist() == [30, 18, 18]
    assert [cached.next_position.item() for cached in played.caches] == [30, 30, 30]
    assert HoliTom().entry == "renumber"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mode": "fast"}, "fixed or exact"),
        ({"holitom_k": "0"}, "less than 1"),
        ({"holitom_k": "half"}, "less than 1"),
        ({"retain_ratio": "0"}, "above 0 up to 1"),
        ({"retain_ratio": "much"}, "above 0 up to 1"),
        ({"beta": "1.5"}, "from 0 to 1"),
        ({"window": "0"}, "less than 1"),
    ],
)
def test_wrong_parameters_are_one_line(wrong, says):
    with pytest.raises(UserError, match=says) as error:
        method("holitom", wrong)
    assert "\n" not in str(error.value)


def test_folding_is_one_merge_after_the_other():
    rows, kept = normal(2, 1, 15, 8), torch.tensor([[[1, 4, 9]], [[0, 13, 14]]])
    mixed = (fold(rows, kept) @ rows)[:, 0]
    unit = torch.nn.functional.normalize(rows, dim=-1)
    for b in range(2):
        left = {t: rows[b, 0, t] for t in kept[b, 0].tolist()}
        for j in sorted(set(range(15)) - set(left)):
            nearest = max(left, key=lambda t, b=b, j=j: float(unit[b, 0, j] @ unit[b, 0, t]))
            left[nearest] = (left[nearest] + rows[b, 0, j]) / 2
        torch.testing.assert_close(mixed[b], torch.stack(list(left.values())))
