"""CATP, stage 1: no vectors were published, so the search is checked against the objective itself in float64."""

import itertools
from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.catp import CATP
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import exported, hidden_taps, in_turn, normal

LAMBDA = 0.7


def kept(rows, text, mask, keep, **fields):
    taps = hidden_taps(rows, inputs={"text": text, "text_mask": mask})
    return CATP(**fields).select(taps, Stage("projected", keep=keep)).indices


def prompt(batch, width=8, words=6):
    """Text embeddings, of which a prompt has fewer and fewer."""
    mask = torch.arange(words) < torch.arange(words, words - batch, -1)[:, None]
    return normal(batch, words, width, seed=9), mask


def similarity(left, right):
    return (1 + torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=-1)) / 2


def worth(rows, meaning, chosen, weight=LAMBDA):
    """F(Y) of the paper."""
    picked = rows[list(chosen)]
    cover = similarity(rows[:, None], picked[None]).amax(1).sum()
    return cover + weight * similarity(picked, meaning[None]).sum()


def by_hand(rows, meaning, keep, weight=LAMBDA):
    """Each pick makes F the largest."""
    picks = []
    for _ in range(keep):
        left = [c for c in range(len(rows)) if c not in picks]
        picks.append(max(left, key=lambda c: float(worth(rows, meaning, [*picks, c], weight))))
    return picks


@pytest.mark.parametrize("weight", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("keep", [1, 2, 11])
def test_each_pick_gains_most(weight, keep):
    rows, (text, mask) = normal(2, 24, 8), prompt(2)
    meanings = [one[seen].mean(0) for one, seen in zip(text, mask, strict=True)]
    found = kept(rows, text, mask, keep, lambda1=weight)[:, 0].tolist()
    for got, one, meaning in zip(found, rows, meanings, strict=True):
        assert got == sorted(by_hand(one, meaning, keep, weight))


def test_the_graph_is_the_reducer():
    rows, (text, _) = normal(2, 24, 8), prompt(2)
    flags = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    assert exported(lambda *given: kept(*given[:2], given[2] > 0, 9), rows, text, flags).shape == (2, 1, 9)


def test_the_first_pick_is_the_best_of_all():
    rows, (text, mask) = normal(1, 10, 8), prompt(1)
    best = max(range(10), key=lambda c: float(worth(rows[0], text[0].mean(0), [c])))
    assert kept(rows, text, mask, 1).item() == best


def test_greedy_comes_close_to_the_best_pair():
    rows, (text, mask) = normal(1, 10, 8), prompt(1)
    meaning = text[0].mean(0)
    best = max(float(worth(rows[0], meaning, pair)) for pair in itertools.combinations(range(10), 2))
    assert float(worth(rows[0], meaning, kept(rows, text, mask, 2).flatten().tolist())) >= (1 - 1 / 2.718281828) * best


def test_the_objective_grows_with_every_token():
    rows, (text, mask) = normal(1, 20, 8), prompt(1)
    worths = [
        float(worth(rows[0], text[0].mean(0), kept(rows, text, mask, keep).flatten().tolist())) for keep in range(1, 21)
    ]
    assert worths == sorted(worths)


def test_with_a_large_weight_alignment_alone_decides():
    rows, (text, mask) = normal(1, 30, 8), prompt(1)
    aligned = similarity(rows[0], text[0].mean(0)[None])
    assert kept(rows, text, mask, 7, lambda1=1e5).flatten().tolist() == sorted(aligned.topk(7).indices.tolist())


def test_without_weight_the_text_does_not_matter():
    rows, (text, mask) = normal(1, 30, 8), prompt(1)
    assert torch.equal(kept(rows, text, mask, 7, lambda1=0.0), kept(rows, -text, mask, 7, lambda1=0.0))
    assert not torch.equal(kept(rows, text, mask, 7), kept(rows, -text, mask, 7))


def test_padding_of_the_text_does_not_matter():
    rows, (text, mask) = normal(3, 30, 8), prompt(3)
    assert torch.equal(kept(rows, text, mask, 7), kept(rows, text + 9 * ~mask[..., None], mask, 7))


@pytest.mark.parametrize("keep", [1, 15, 30])
def test_every_budget_keeps_that_many_in_order(keep):
    found = kept(normal(2, 30, 8), *prompt(2), keep)
    assert found.shape == (2, 1, keep)
    assert (found.diff(dim=-1) > 0).all()


def test_ties_go_to_the_lower_index():
    assert kept(torch.ones(1, 9, 8), *prompt(1), 4).tolist() == [[[0, 1, 2, 3]]]


def test_batch_equals_one_at_a_time():
    rows, (text, mask) = normal(3, 30, 8), prompt(3)
    assert torch.equal(kept(rows, text, mask, 7), in_turn(lambda *one: kept(*one, 7), rows, text, mask))


LLAVA = Shape(576, Grid(24, 24), decoder_layers=32)


@pytest.mark.parametrize(("keep", "first"), [("128", 352), ("127", 351), ("575", 575), ("1", 288)])
def test_each_stage_drops_half_of_what_goes(keep, first):
    assert CATP().plan(LLAVA, Budget(keep)) == (Stage("projected", keep=first), Stage("decoder", 5, keep=int(keep)))


def test_plans():
    several = CATP().plan(replace(LLAVA, images=5), Budget("128"))
    assert several[1:] == (Stage("decoder", 5), Stage("decoder", 6, keep=128))
    assert CATP(stage1_only=True).plan(LLAVA, Budget("352")) == (Stage("projected", keep=352),)
    assert CATP().plan(LLAVA, Budget("100%")) == ()
    assert CATP().needs == {"text"}


@pytest.mark.parametrize(("layers", "behind"), [(2, 0), (4, 1), (28, 5), (32, 5), (40, 9), (64, 10)])
def test_stage_2_is_where_the_paper_has_it_or_at_the_same_depth(layers, behind):
    assert CATP().plan(replace(LLAVA, decoder_layers=layers), Budget("128"))[-1].layer == behind
    assert CATP(k=1).plan(replace(LLAVA, decoder_layers=layers), Budget("128"))[-1].layer == 0


def test_layers_that_are_not_there():
    with pytest.raises(UserError, match="cannot cut behind layer 32 of 32"):
        CATP(k=32).plan(LLAVA, Budget("128"))


@pytest.mark.parametrize("param", ["lambda1", "lambda2", "k"])
def test_a_mistake_is_one_line(param):
    with pytest.raises(UserError, match=r"from [01] on") as caught:
        method("catp", {param: "-1"})
    assert "\n" not in str(caught.value)
