"""The serial searches against plain loops in float64, and CPython's own sets."""

import random

import numpy as np
import pytest
import torch

from exporter.maths.greedy import SEARCHES, diverse
from exporter.maths.peel import peel, rounds
from exporter.maths.set_order import LARGEST, RUN, set_order
from tests.exporter.methods.common import normal, uniform


def by_hand(matrix, start, keep, form):
    """One row's picks, each from what is picked already."""
    picks = []
    for _ in range(keep):
        if form == "facility":
            covered = matrix[picks].max(0, initial=0)
            score = np.maximum(0, matrix - covered).sum(1) + start
        elif form == "determinant":
            score = [np.linalg.slogdet(matrix[np.ix_([*picks, c], [*picks, c])])[1] for c in range(len(start))]
        elif not picks:
            score = start
        else:
            score = matrix[picks].min(0) if form == "max-min" else matrix[picks].sum(0)
        score = np.array(score, dtype=np.float64)
        score[picks] = -np.inf
        picks.append(int(score.argmax()))
    return picks


def kernel(batch=3, width=24, rank=40):
    rows = torch.nn.functional.normalize(normal(batch, width, rank), dim=-1) * (0.5 + uniform(batch, width, 1, seed=4))
    return rows @ rows.mT


@pytest.mark.parametrize("form", SEARCHES)
@pytest.mark.parametrize("keep", [1, 9, 24])
def test_each_pick_is_the_best_one_left(form, keep):
    matrix = kernel()
    start = matrix.diagonal(dim1=1, dim2=2) if form == "determinant" else uniform(3, 24, seed=5)
    picks = diverse(matrix, start, keep, form)
    assert picks.dtype == torch.int64
    for got, one, first in zip(picks.tolist(), matrix.double().numpy(), start.double().numpy(), strict=True):
        assert got == by_hand(one, first, keep, form)


@pytest.mark.parametrize("form", SEARCHES)
def test_leading_axes_are_searched_one_by_one(form):
    matrix = kernel(6).reshape(2, 3, 24, 24)
    start = matrix.diagonal(dim1=-2, dim2=-1) if form == "determinant" else uniform(2, 3, 24)
    picks = diverse(matrix, start, 5, form)
    assert picks.shape == (2, 3, 5)
    for b in range(2):
        for i in range(3):
            assert torch.equal(picks[b, i], diverse(matrix[b, i], start[b, i], 5, form))


@pytest.mark.parametrize("form", SEARCHES)
def test_ties_go_to_the_lower_index(form):
    assert diverse(torch.ones(1, 6, 6), torch.ones(1, 6), 6, form).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert diverse(torch.eye(6)[None], torch.ones(1, 6), 6, form).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_search_in_half_precision_is_made_in_single():
    matrix, start = kernel().half(), uniform(3, 24).half()
    assert torch.equal(diverse(matrix, start, 8, "max-min"), diverse(matrix.float(), start.float(), 8, "max-min"))


def test_the_determinant_survives_more_tokens_than_rank():
    rows = normal(1, 12, 3)
    matrix = rows @ rows.mT
    picks = diverse(matrix, matrix.diagonal(dim1=1, dim2=2), 12, "determinant")
    assert sorted(picks[0].tolist()) == list(range(12))


@pytest.mark.parametrize(("total", "keep"), [(40, 16), (41, 17), (9, 1), (8, 8), (576, 1)])
def test_rounds_end_at_the_budget(total, keep):
    plan = rounds(total, keep, 8)
    assert total - sum(drop for _, drop in plan) == keep
    assert all(0 < drop <= min(8, (alive + 1) // 2) for alive, drop in plan)


def test_a_duplicate_leaves_first():
    rows = normal(1, 20, 16)
    rows[0, 6] = rows[0, 11]
    unit = torch.nn.functional.normalize(rows, dim=-1)
    assert 6 not in peel(unit @ unit.mT, 19, 8)[0].tolist()


def test_nothing_to_peel_and_nothing_to_keep():
    assert peel(kernel(), 24, 8).tolist() == [list(range(24))] * 3
    assert peel(kernel(), 0, 8).shape == (3, 0)


@pytest.mark.parametrize("count", range(1, LARGEST + 1))
def test_the_order_of_a_set_is_cpythons(count):
    draw = random.Random(count)
    rows = [draw.sample(range(draw.choice([64, 1024, 32768])), count) for _ in range(60)]
    rows += [draw.sample(range(31, 32 * 300, 32), count) for _ in range(20)]  # all want the same slot
    numbers = torch.tensor(rows)
    assert numbers.gather(1, set_order(numbers)).tolist() == [list(set(row)) for row in rows]


def test_a_probe_meets_a_free_slot_in_time():
    """Three jumps use up a number below 2^15; the nine after them reach more slots than can be full."""
    for slot in range(32):
        reached, place = set(), slot
        for _ in range(9):
            reached |= set(range(place, place + (RUN if place + RUN <= 32 else 1)))
            place = (5 * place + 1) % 32
        assert len(reached) > LARGEST
