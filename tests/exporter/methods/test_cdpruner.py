"""CDPruner: a determinantal point process under a question."""

import numpy as np
import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.cdpruner import CDPruner, clip_relevance
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, in_turn, normal, play_case, uniform


def kept(rows, relevance, keep, views=1, **fields):
    """Mode paper from relevance `[B,V*N]` that the tower carried."""
    taps = hidden_taps(rows, views=views, carry={"relevance": relevance[:, None]})
    return CDPruner(**fields).select(taps, Stage("projected", keep=keep)).indices


def kept_by_text(rows, text, keep, mode="openvino", **fields):
    mask = torch.ones(text.shape[:2], dtype=torch.bool)
    taps = hidden_taps(rows, inputs={"text": text, "text_mask": mask})
    return CDPruner(mode=mode, **fields).select(taps, Stage("projected", keep=keep)).indices


@pytest.mark.parametrize("path", golden_paths("cdpruner"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


def likeliest(kernel, keep):
    """Greedy by the determinants themselves."""
    picks = []
    while len(picks) < keep:
        left = [c for c in range(len(kernel)) if c not in picks]
        picks.append(max(left, key=lambda c: np.linalg.slogdet(kernel[np.ix_([*picks, c], [*picks, c])])[1]))
    return sorted(picks)


def cosines(rows):
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    return (unit @ unit.T).numpy()


def scaled(relevance, low=0.0):
    relevance = relevance.double().numpy()
    return (relevance - relevance.min() + low) / (relevance.max() - relevance.min())


def test_each_view_keeps_its_share_under_one_common_scale():
    rows, relevance = normal(2, 48, 40), normal(2, 48, seed=3)
    found = exported(lambda rows, relevance: kept(rows, relevance, 18, views=2), rows, relevance)[:, 0]
    for one, weights, got in zip(rows, relevance, found.tolist(), strict=True):
        r = scaled(weights, 1e-6)
        kernel = r[:, None] * cosines(one) * r
        first, second = likeliest(kernel[:24, :24], 9), likeliest(kernel[24:, 24:], 9)
        assert got == first + [24 + place for place in second]


def test_the_first_pick_is_the_most_relevant_token():
    relevance = normal(2, 30)
    assert kept(normal(2, 30, 16), relevance, 1).flatten().tolist() == relevance.argmax(1).tolist()


@pytest.mark.parametrize("mode", ["openvino", "openvino-fallback"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_two_kernels_of_openvino(mode, weight):
    rows, text = normal(1, 24, 40), normal(1, 3, 40, seed=2)
    alike = torch.nn.functional.cosine_similarity(rows[0].double(), text[0].mean(0, keepdim=True).double())
    r, plain = scaled(alike), cosines(rows[0])
    if mode == "openvino":
        kernel = (1 - weight) * plain + weight * r[:, None] * plain * r
    else:
        e = {0.0: np.ones(24), 0.3: np.exp(0.3 / 1.4 * r), 1.0: r}[weight]
        kernel = e[:, None] * plain * e
    kernel += 1e-9 * np.eye(24)  # w = 1: the least relevant token has weight 0
    got = kept_by_text(rows, text, 8, mode, relevance_weight=weight, split=False).flatten().tolist()
    if weight == 0:  # all first gains are 1 but for rounding
        assert len(set(got)) == 8
    else:
        assert got == likeliest(kernel, 8)


@pytest.mark.parametrize(("total", "keep"), [(24, 8), (25, 9), (24, 1), (2, 2), (1, 1)])
def test_halves_are_searched_by_themselves(total, keep):
    rows, text = normal(2, total, 40), normal(2, 3, 40, seed=2)
    half = total // 2
    run = exported if total == 25 else lambda run, *given: run(*given)
    got = run(lambda rows, text: kept_by_text(rows, text, keep), rows, text)[:, 0]
    parts = []
    for begin, end, count in [(0, half, keep // 2), (half, total, keep - keep // 2)]:
        if count:
            parts.append(kept_by_text(rows[:, begin:end], text, count, split=False)[:, 0] + begin)
    assert torch.equal(got, torch.cat(parts, 1))


def test_relevance_is_the_negative_mean_over_the_segments_there_are():
    states, text = normal(2, 9, 8), normal(2, 3, 8, seed=5)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    align = lambda rows, norm: 2 * rows if norm else None  # noqa: E731
    taps = hidden_taps(states, layer=4, inputs={"clip_text": text, "clip_mask": mask}, align=align)
    found = clip_relevance(taps, 4)
    for one, words, seen, got in zip(states, text, mask, found, strict=True):
        wanted = -torch.nn.functional.cosine_similarity(one[:, None], words[seen][None], dim=-1).mean(1)
        assert torch.allclose(got, wanted, atol=1e-6)
    carried = CDPruner().select(taps, Stage("tower", 4)).carry["relevance"]
    assert torch.equal(carried[:, 0], found)


@pytest.mark.parametrize("keep", [1, 15, 39, 40])
def test_every_budget_keeps_that_many_in_order_even_beyond_the_rank(keep):
    rows, text = normal(2, 40, 16), normal(2, 3, 16)
    for found in (kept(rows, uniform(2, 40), keep), kept_by_text(rows, text, keep)):
        assert found.shape == (2, 1, keep)
        assert (found.diff(dim=-1) > 0).all()


def test_ties_and_relevance_that_is_the_same_everywhere():
    assert kept(torch.eye(8)[None], torch.ones(1, 8), 3).tolist() == [[[0, 1, 2]]]


def test_batch_equals_one_at_a_time():
    rows, relevance = normal(3, 40, 60), uniform(3, 40)
    assert torch.equal(kept(rows, relevance, 9), in_turn(lambda row, one: kept(row, one, 9), rows, relevance))


def test_order_of_the_tokens_does_not_matter_to_the_papers_mode():
    rows, relevance = normal(1, 40, 60), uniform(1, 40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    again = kept(rows[:, order], relevance[:, order], 9).flatten()
    assert sorted(order[again].tolist()) == kept(rows, relevance, 9).flatten().tolist()


def test_plans_and_needs_follow_the_mode():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, views=5)
    paper, other = method("cdpruner"), method("cdpruner", {"mode": "openvino"})
    assert paper.plan(shape, Budget("64")) == (Stage("tower", 22), Stage("projected", keep=320))
    assert other.plan(shape, Budget("64")) == (Stage("projected", keep=64),)
    assert (paper.needs, other.needs) == ({"clip"}, {"text"})


@pytest.mark.parametrize("params", [{"mode": "ov"}, {"relevance_weight": "1.5"}, {"relevance_weight": "nan"}])
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("cdpruner", params)
    assert "\n" not in str(caught.value)
