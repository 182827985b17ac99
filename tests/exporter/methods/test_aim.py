"""AIM: rows merged in halves, a walk over attention, and layers that lose tokens until there are none."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.halving import halved
from exporter.maths.surfing import surfed
from exporter.methods.aim import AIM, Mask
from exporter.plan import make_plan
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import golden_paths, hidden_taps, in_turn, normal
from tests.exporter.methods.padded_prompts import Prompts, alike, as_graph
from tools import golden
from tools.goldens.aim import checks

TWO = Prompts((60, 52), 20, ((3, 26), (1, 25)))  # of two pictures each
TWENTY = Shape(20, Grid(4, 5), decoder_layers=5)
VIDEO = Shape(196, Grid(14, 14), decoder_layers=28, views=32, video=True)


def plan(keep, shape=VIDEO, **fields):
    return make_plan("aim", AIM(**fields), shape, Budget(keep))


def merged(rows, keep, views=1, **more):
    """Merged rows of `[B,V*N,D]`, and the selection."""
    taps = hidden_taps(rows, views=views, **more)
    reducer = AIM(step=0.0)
    (stage,) = reducer.plan(taps.shape, Budget(str(keep)))
    found = reducer.select(taps, stage)
    return (found.mix @ rows[:, None])[:, 0], found


@pytest.mark.parametrize("path", golden_paths("aim"), ids=lambda path: path.stem)
def test_golden(path):
    """The decoders of 28 layers not as graphs, which takes minutes; shorter ones are below."""
    played = list(checks(golden.load(path)))
    assert [check.what for check in played] == ["merge_out_50", "merge_out_25", "mask", "drop"]
    for check in played:
        sides = (golden.in_pytorch, golden.as_graph) if check.what.startswith("merge") else (golden.in_pytorch,)
        assert [golden.compare(side(check), check.want)[2] for side in sides] == [""] * len(sides)


def by_hand(rows, keep):
    """One view, pair by pair."""
    rows = list(rows)
    while len(rows) > keep:
        even, odd = rows[::2], rows[1::2]
        alike = torch.nn.functional.cosine_similarity(torch.stack(even)[:, None], torch.stack(odd)[None], dim=-1)
        best, target = alike.max(1)
        order = best.sort(descending=True, stable=True).indices.tolist()
        count = min(len(rows) - keep, len(rows) // 2)
        heaps = [[row] for row in odd]
        for source in order[:count]:
            heaps[target[source]].append(even[source])
        rows = [even[source] for source in order[count:]] + [torch.stack(heap).mean(0) for heap in heaps]
    return torch.stack(rows)


@pytest.mark.parametrize("keep", [1, 4, 7, 12, 20, 22])
def test_merging_halves_until_the_budget_is_met(keep):
    rows = normal(2, 23, 6)
    got, _ = merged(rows, keep)
    for one, want in zip(got, rows, strict=True):
        torch.testing.assert_close(one, by_hand(want, keep), atol=1e-5, rtol=1e-5)


def test_ties_merge_the_first_pairs_into_the_first():
    place, mix = halved(torch.ones(1, 6, 3), 4)
    assert place.tolist() == [[4, 1, 3, 5]]
    torch.testing.assert_close(mix[0, 1], torch.tensor([1, 1, 1, 0, 0, 0]) / 3)


def test_views_merge_by_themselves_wherever_their_tokens_stand():
    rows, places = normal(1, 12, 6), (0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11)
    got, found = merged(rows, 6, views=2, places=places)
    want = torch.cat([by_hand(rows[0, list(places[:6])], 3), by_hand(rows[0, list(places[6:])], 3)])
    torch.testing.assert_close(got[0], want, atol=1e-5, rtol=1e-5)
    assert set(found.indices[0, 0, :3].tolist()) <= set(places[:6])
    assert (found.mix[0, 0].gather(1, found.indices[0, 0][:, None]) > 0).all()


def test_merging_alone_or_in_a_batch():
    rows = normal(3, 20, 6)
    assert torch.allclose(merged(rows, 7)[0], in_turn(lambda row: merged(row, 7)[0], rows), atol=1e-6)


def test_the_authors_schedule():
    stages = plan("25%")
    assert stages[0] == Stage("projected", keep=1568)
    assert [s.layer for s in stages[1:]] == list(range(14, 22))
    assert [s.keep for s in stages[1:]] == [1372, 1176, 980, 784, 588, 392, 196, 0]
    masks = plan("25%", mode="mask")[1:]
    assert [(s.keep, s.left) for s in masks] == [(None, s.keep) for s in stages[1:]]


@pytest.mark.parametrize(
    ("has", "layers", "left"),
    [
        (32, [16, 17, 18, 19, 21, 22, 23, 24], [42, 36, 30, 24, 18, 12, 6, 0]),
        (4, [0, 1, 2], [12, 6, 0]),
        (2, [0], [0]),
        (1, [], []),
    ],
)
def test_other_depths(has, layers, left):
    stages = plan("48", Shape(64, Grid(8, 8), decoder_layers=has))[1:]
    assert [(s.layer, s.keep) for s in stages] == list(zip(layers, left, strict=True))


def test_a_schedule_of_ones_own():
    shape = Shape(10, Grid(2, 5), decoder_layers=8)
    assert [(s.layer, s.keep) for s in plan("100%", shape, merge=False, start=3, step=0.3)] == [
        (3, 7),
        (4, 4),
        (5, 1),
        (6, 0),
    ]
    assert [(s.layer, s.keep) for s in plan("100%", shape, merge=False, start=5, step=0.3)] == [(5, 7), (6, 4)]
    long = plan("100%", Shape(100, Grid(10, 10), decoder_layers=28), merge=False, step=0.05)
    assert [(s.layer, s.keep) for s in long] == [(14 + n, 95 - 5 * n) for n in range(13)]


def test_a_full_budget_is_the_whole_model():
    assert plan("100%") == plan("100%", merge=False, step=0.0) == ()
    assert len(plan("100%", merge=False)) == 8


def test_budgets_divide_by_the_views():
    assert plan("70", step=0.0) == (Stage("projected", keep=64),)


def surf(logits, tau=0.1, steps=5):
    score = torch.full((len(logits), 1, logits.shape[-1]), 1 / logits.shape[-1])
    for _ in range(steps):
        score = score @ (logits / tau).softmax(-1)
    return score[:, 0].square().mean(0).sqrt()


def test_importance_is_a_walk_over_the_sharpened_attention():
    q, k = normal(2, 4, 15, 4), normal(2, 2, 15, 4, seed=1)
    future = torch.full((15, 15), torch.finfo(torch.float32).min).triu(1)[None, None]
    seen = {0: Seen(qkv={True: QKV(q, k, k)}, scale=0.5, mask=future)}
    taps = EagerTaps((3,), 8, 15, seen, Shape(8, Grid(2, 4)), batch=2)
    for b, found in enumerate(surfed(taps, 0, 0.1, 5, 0.0)):
        logits = q[b] @ k[b].repeat_interleave(2, 0).transpose(1, 2) * 0.5
        torch.testing.assert_close(found, surf(logits + future[0, 0]), atol=1e-6, rtol=1e-4)
    anew = surfed(taps, 0, 0.1, 5, 1.0)
    torch.testing.assert_close(anew, torch.full((2, 15), 1 / 15))


@pytest.mark.parametrize("mode", ["drop", "mask"])
def test_prompts_of_several_lengths_do_not_disturb_each_other(mode):
    alike(AIM(mode, merge=False, start=1, step=0.4), TWO, "100%")


def test_masked_and_dropped_tokens_differ_by_their_votes_alone():
    """After one stage the rows of text and of what is left are the same."""
    one = Prompts((40,), 20, ((4,),))
    dropped, masked = (one.walk(AIM(mode, merge=False, start=3, step=0.5), "100%") for mode in ("drop", "mask"))
    still = masked.sequence.carry["alive"][0, 0] > 0
    assert still.sum() == 10
    alive = torch.cat([torch.ones(4) > 0, still, torch.ones(16) > 0])
    torch.testing.assert_close(masked.sequence.hidden[:, alive], dropped.sequence.hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["drop", "mask"])
def test_the_graph_of_a_batch_is_the_reducer(mode):
    reducer = AIM(mode, merge=False, start=0, step=0.4)
    assert [s.left if isinstance(s, Mask) else s.keep for s in plan("20", TWENTY, **vars(reducer))] == [12, 4, 0]
    as_graph(reducer, TWO, "100%")


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "hide"},
        {"step": "1.5"},
        {"damping": "-1"},
        {"tau": "0"},
        {"iterations": "0"},
        {"start": "-2"},
        {"start": "late"},
    ],
)
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("aim", params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("keep", "fields"), [("31", {}), ("50%", {"merge": False}), ("25%", {"start": 27})])
def test_a_budget_that_does_not_fit(keep, fields):
    with pytest.raises(UserError, match="give"):
        plan(keep, **fields)
