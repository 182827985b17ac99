"""PruneVid: recorded vectors and a plain loop for the exact form; constant counts for the fixed one."""

from dataclasses import replace
from itertools import groupby

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.scenes import contiguous
from exporter.maths.shares import Pick, sizes
from exporter.methods.prunevid import PruneVid
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, exported, golden_paths, hidden_taps, normal, play_case
from tests.exporter.methods.plain_decoder import causal
from tests.exporter.methods.scenery import peaks, rows_of, same, scenery
from tests.exporter.methods.small_decoder import WIDTH, small_decoder
from tools.goldens.decoders import play


def selected(video, keep="100%", **parameters):
    """Selection for rows `[B,F,L,D]`."""
    taps = hidden_taps(video.flatten(1, 2), views=video.shape[1], video=True)
    reducer = PruneVid(**parameters)
    stage, *_ = reducer.plan(taps.shape, Budget(str(keep)))
    return reducer.select(taps, stage)


def runs(labels):
    """(label, first, size) of every run of equal labels."""
    out, first = [], 0
    for label, run in groupby(labels):
        size = len(list(run))
        out.append((label, first, size))
        first += size
    return out


def refined(labels):
    """Labels made contiguous, gap by gap."""
    found = runs(labels)
    longest = {label: max(size for other, _, size in found if other == label) for label in labels}
    kept = [[label if size == longest[label] > 1 else -1] * size for label, _, size in found]
    labels = [label for run in kept for label in run]
    while -1 in labels:
        found = runs(labels)
        at = next(number for number, run in enumerate(found) if run[0] == -1)
        left = found[at - 1] if at else (0, 0, 0)
        right = found[at + 1] if at + 1 < len(found) else (0, 0, 0)
        _, first, size = found[at]
        labels[first : first + size] = [left[0] if left[2] >= right[2] else right[0]] * size
    return labels


def grouped(rows, count, k=7):
    """Rows of each cluster, by its centre, the highest peak first."""
    centres, apart = peaks(rows, k, count)
    joined = {centre: [centre] for centre in centres}
    for i in set(range(len(rows))) - set(centres):
        joined[min(centres, key=lambda c: (apart[i][c], centres.index(c)))].append(i)
    return joined


def by_hand(video, *, tau=0.8, ratio=0.5, few=14):
    """One video `[F,L,D]`: a list of (index, row)."""
    views, patches, _ = video.shape
    frames = grouped(video.mean(1), int(views * 0.25))
    label = {i: number for number, members in enumerate(frames.values()) for i in members}
    unit, out = torch.nn.functional.normalize(video, dim=-1), []

    def add(rows, places, frame):
        if len(places) > few:
            joined = grouped(rows, int(len(places) * ratio))
            out.extend((frame * patches + places[c], rows[members].mean(0)) for c, members in joined.items())
        else:
            out.extend((frame * patches + place, row) for place, row in zip(places, rows, strict=True))

    for _, first, size in runs(refined([label[frame] for frame in range(views)])):
        pairs = [(t, u) for t in range(first, first + size) for u in range(first, first + size) if t != u]
        alike = sum((unit[t] * unit[u]).sum(-1) for t, u in pairs) / len(pairs) if pairs else torch.zeros(patches)
        still = [i for i in range(patches) if alike[i] > tau]
        moving = [i for i in range(patches) if i not in still]
        add(video[first : first + size].mean(0)[still], still, first)
        for frame in range(first, first + size):
            add(video[frame][moving], moving, frame)
    return out


@pytest.mark.parametrize("path", golden_paths("prunevid"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 6


def test_labels_become_contiguous_as_by_the_loop():
    gen = torch.Generator().manual_seed(5)
    for views in (2, 7, 13):
        labels = torch.randint(0, 3, (200, views), generator=gen).repeat_interleave(2, 1)[:, 1:]
        labels = torch.where(torch.rand(labels.shape, generator=gen) < 0.2, 2, labels)
        assert contiguous(labels).tolist() == [refined(line) for line in labels.tolist()]


def test_labels_without_any_run_become_the_first():
    assert contiguous(torch.tensor([[2, 1, 0, 2, 1]])).tolist() == [[0] * 5]
    assert contiguous(torch.tensor([[1, 1, 2, 0, 0]])).tolist() == [[1, 1, 1, 0, 0]]  # of one length: the left


@pytest.mark.parametrize(("views", "patches"), [(8, 25), (13, 36), (7, 9)])
def test_exact_is_the_loop(views, patches):
    video = scenery(3, views, patches, seed=views)
    same(selected(video, mode="exact"), video, [by_hand(one) for one in video])


def test_exact_in_a_still_and_in_a_moving_video():
    still = normal(1, 1, 20, 16).expand(-1, 8, -1, -1) + 1e-3 * normal(1, 8, 20, 16, seed=1)
    same(selected(still, mode="exact"), still, [by_hand(still[0])])
    moving = normal(1, 8, 20, 64)
    same(selected(moving, mode="exact"), moving, [by_hand(moving[0])])


def test_the_slots_are_enough_for_any_video():
    shape = Shape(20, Grid(4, 5), has_cls=False, views=5, video=True)
    reducer = PruneVid(mode="exact", k=5)
    counts = [reducer.clusters(rows) for rows in range(21)]
    most = {1: counts[20], **{n: max(counts[s] + n * counts[20 - s] for s in range(21)) for n in (2, 3, 4, 5)}}
    splits = [[5], [4, 1], [3, 2], [3, 1, 1], [2, 2, 1], [2, 1, 1, 1], [1] * 5]
    assert reducer.most(shape) == max(sum(most[size] for size in sizes) for sizes in splits)


@pytest.mark.parametrize("parameters", [{"mode": "exact"}, {}])
def test_batch_equals_one_at_a_time(parameters):
    video = scenery(3, 9, 16)
    together = selected(video, 30, **parameters)
    for b in range(3):
        alone = selected(video[b : b + 1], 30, **parameters)
        assert torch.equal(together.indices[b : b + 1], alone.indices)
        torch.testing.assert_close(together.mix[b : b + 1], alone.mix)


@pytest.mark.parametrize("keep", [1, 2, 13, 60, 89, 90])
@pytest.mark.parametrize(("share", "still"), [(0.25, 0.5), (1.0, 0.5), (0.1, 1.0), (0.3, 0.0)])
def test_fixed_keeps_exactly_the_budget(keep, share, still):
    video = scenery(2, 10, 9)
    indices, rows = rows_of(selected(video, keep, temporal_segment_ratio=share, still=still), video)
    assert indices.shape == (2, keep)
    assert all(len(set(line)) == keep and min(line) >= 0 for line in indices.tolist())
    assert rows.isfinite().all()
    if keep == 90:
        torch.testing.assert_close(rows, video.flatten(1, 2))


def test_fixed_rows_are_means_of_all_that_is_there():
    video = scenery(2, 6, 16)
    mix = selected(video, 24, temporal_segment_ratio=1 / 3).mix[:, 0].reshape(2, 24, 6, 16)
    assert ((mix > 0).any(-1).sum(-1) == torch.tensor([3] * 3 + [1] * 9 + [3] * 3 + [1] * 9)).all()
    assert ((mix > 0).sum(1) == 1).all()  # every token is in one row


def test_the_fixed_graph_is_what_pytorch_gives():
    def run(video):
        indices, rows = rows_of(selected(video, 20), video)
        return {"indices": indices, "rows": rows}

    exported(run, scenery(2, 6, 9))


SHAPE = Shape(196, Grid(14, 14), views=32, video=True, decoder_layers=32)


def test_plan():
    first, pick, compact = make_plan("prunevid", PruneVid(), SHAPE, Budget("10%"))
    assert first == Stage("projected", keep=627)
    assert (pick.layer, pick.keep, compact) == (10, 240, Stage("decoder", 10, at="kv", since=0))
    assert sum(size for size, _ in pick.groups) == 627
    assert all(stay == int(0.4 * size) for size, stay in pick.groups)
    assert PruneVid(llm=False).plan(SHAPE, Budget("10%")) == (first,)
    (stage,) = make_plan("prunevid", PruneVid(mode="exact"), SHAPE, Budget("1"))
    assert stage.keep >= 32 * 98
    assert stage.blanks
    with pytest.raises(UserError, match="7 or more"):
        PruneVid(mode="exact").plan(replace(SHAPE, views=6), Budget("1"))
    with pytest.raises(UserError, match="temporal_segment_ratio"):
        PruneVid(mode="exact", temporal_segment_ratio=0.1).plan(replace(SHAPE, views=8), Budget("1"))


@pytest.mark.parametrize(("layers", "given", "after"), [(32, {}, 10), (28, {}, 9), (2, {}, 0), (28, {"layer": 3}, 3)])
def test_the_text_picks_at_the_same_depth(layers, given, after):
    reducer = PruneVid(selected_layer=given.get("layer"))
    stages = make_plan("prunevid", reducer, replace(SHAPE, decoder_layers=layers), Budget("10%"))
    assert [stage.layer for stage in stages[1:]] == [after, after]


@pytest.mark.parametrize(("keep", "parameters"), [("100%", {}), ("10%", {"alpha": 1.0}), ("5", {})])
def test_nothing_is_picked_of_all_or_where_nothing_were_left(keep, parameters):
    assert len(PruneVid(**parameters).plan(SHAPE, Budget(keep))) == 1


def test_groups_are_a_window_s_still_rows_and_then_each_frame_s():
    shape = Shape(16, Grid(4, 4), views=6, video=True)
    reducer = PruneVid(temporal_segment_ratio=1 / 3)
    split = reducer.split(shape, 24)
    assert sizes(split) == [split.merged[0], *split.single[:3], split.merged[1], *split.single[3:]]


def picked(attention, valid, groups, start, width):
    """What the text picks of spans at `start` `[B,I]`, of attention `[B,H,S,S]`."""

    class Given:
        """Taps of a prompt."""

        def __init__(self):
            self.valid, self.span = valid, torch.tensor(start)[..., None] + torch.arange(width)
            inside = [{row for spans in line for row in spans} for line in self.span.tolist()]
            length = attention.shape[-1]
            self.outside = torch.tensor([[row for row in range(length) if row not in each] for each in inside])

        def rows(self, layer, places):
            assert layer == 3
            return torch.stack([one[:, rows] for one, rows in zip(attention, places, strict=True)])

        def span_of(self, values):
            lines = zip(values, self.span, strict=True)
            return torch.stack([torch.stack([one[..., span] for span in spans]) for one, spans in lines])

    stage = Pick("decoder", 3, keep=sum(stay for _, stay in groups), groups=groups)
    return PruneVid().select(Given(), stage).indices


def test_of_each_group_stay_those_that_any_head_of_any_word_looks_at_most():
    groups, lengths, start = ((3, 1), (4, 2), (4, 2), (2, 0), (3, 1)), (44, 40), ([2, 20], [1, 21])
    seen = attention(2, 3, 44, 44)
    valid = torch.arange(44) < torch.tensor(lengths)[:, None]
    found = picked(seen, valid, groups, start, 16).tolist()
    for b, length in enumerate(lengths):
        for i, first in enumerate(start[b]):
            others = {row for other in start[b] for row in range(other, other + 16)}
            text = [row for row in range(first + 16, length) if row not in others]
            score = seen[b][:, text, first : first + 16].amax((0, 1)).tolist()
            want, place = [], 0
            for size, stay in groups:
                want += sorted(range(place, place + size), key=lambda row: -score[row])[:stay]
                place += size
            assert found[b][i] == sorted(want)


def test_equal_attention_picks_the_first_rows_of_groups():
    valid = torch.ones(1, 12) > 0
    assert picked(torch.ones(1, 2, 12, 12), valid, ((4, 1), (4, 3)), ([1],), 8).tolist() == [[[0, 4, 5, 6]]]


def test_caches_keep_what_lives_on_and_positions_stay():
    decoder, rows, start, width = small_decoder(4), normal(1, 30, WIDTH), 4, 20
    groups = ((4, 1), (8, 3), (8, 3))
    stages = Pick("decoder", 1, keep=7, groups=groups), Stage("decoder", 1, at="kv", since=0)
    played = play(decoder, PruneVid(), stages, rows, start, width)
    x, places, past = rows, torch.arange(30), []
    for layer in range(4):
        past.append(causal(decoder, layer, x, places))
        x = past[-1].hidden
        if layer == 1:
            score = past[-1].attention[:, start + width :, start : start + width].amax((0, 1))
            ends = (0, 4, 12, 20)
            best = [score[a:b].topk(n[1]).indices + a for a, b, n in zip(ends, ends[1:], groups, strict=False)]
            kept = torch.cat(best).sort().values + start
            places = torch.cat([torch.arange(start), kept, torch.arange(start + width, 30)])
            x = x[:, places]
    torch.testing.assert_close(played.hidden, decoder.norm(x))
    for layer, ran in enumerate(past):
        mine = places if layer < 2 else torch.arange(len(places))
        ran.key, ran.value = ran.key[:, mine], ran.value[:, mine]
        torch.testing.assert_close(played.caches[layer].key[0], ran.key)
        torch.testing.assert_close(played.caches[layer].value[0], ran.value)
    new = normal(1, 1, WIDTH, seed=5)
    (found,) = played.run([new])
    for layer in range(4):
        new = causal(decoder, layer, new, torch.tensor([30]), past[layer]).hidden
    torch.testing.assert_close(found, decoder.norm(new))
    assert PruneVid().entry == "renumber"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mode": "fast"}, "fixed or exact"),
        ({"cluster_ratio": "0"}, "above 0 up to 1"),
        ({"temporal_segment_ratio": "2"}, "above 0 up to 1"),
        ({"still": "1.5"}, "from 0 to 1"),
        ({"k": "0"}, "less than 1"),
        ({"alpha": "0"}, "above 0 up to 1"),
        ({"selected_layer": "-1"}, "no number of a layer"),
        ({"selected_layer": "deep"}, "no number of a layer"),
    ],
)
def test_wrong_parameters_are_one_line(wrong, says):
    with pytest.raises(UserError, match=says) as error:
        method("prunevid", wrong)
    assert "\n" not in str(error.value)
