"""DiverseSelect: the source of the kernel, run on the CPU, against its twin."""

import numpy as np
import pytest

from plugins import twins
from tests.plugins import on_cpu
from tests.plugins.scores import hard, scores, tied, uniform

FORMS = tuple(twins.FORMS)


def problem(seed, kind, batch, n):
    return scores(seed, kind, np.float32, batch, n, n), scores(seed + 1, kind, np.float32, batch, n)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [uniform, tied, hard])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 2), (31, 5), (32, 32), (33, 10), (100, 100), (145, 72)])
def test_in_every_order_of_threads(n, k, kind, form):
    matrix, start = problem(n + k, kind, 2, n)
    want = twins.diverse_select(matrix, start, k, form)
    for order in (0, 1, 2):
        assert on_cpu.diverse_select(matrix, start, k, form, order=order).tolist() == want.tolist()


@pytest.mark.parametrize("seed", range(30))
def test_of_any_size(seed):
    random = np.random.default_rng(seed)
    n, batch = int(random.integers(1, 300)), int(random.integers(1, 4))
    k = int(random.integers(1, min(n, 60) + 1))
    for kind in (uniform, tied, hard):
        matrix, start = problem(seed, kind, batch, n)
        form = FORMS[seed % 2]
        got = on_cpu.diverse_select(matrix, start, k, form, order=seed)
        assert got.tolist() == twins.diverse_select(matrix, start, k, form).tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "k"), [(577, 64), (1024, 20), (1025, 20), (2880, 24), (4097, 6)])
def test_more_tokens_than_a_thread_has_one_of(n, k, form):
    matrix, start = problem(n, uniform, 1, n)
    got = on_cpu.diverse_select(matrix, start, k, form, order=3)
    assert got.tolist() == twins.diverse_select(matrix, start, k, form).tolist()


@pytest.mark.parametrize("n", [16384, 16385])
def test_the_running_score_moves_to_memory(n):
    """The last size for registers and the first beyond. Equal rows that fall: 0, 1, 2 are picked, two rows are read."""
    row = np.linspace(1, 0, n, dtype=np.float32)
    matrix, start = np.broadcast_to(row, (1, n, n)), row[None].copy()
    assert (on_cpu.library().tp_diverse_workspace(1, n) > 0) == (n > 16384)
    got = on_cpu.diverse_select(np.ascontiguousarray(matrix[:, :2]), start, 3, "max-sum").tolist()
    assert got == twins.diverse_select(matrix, start, 3, "max-sum").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (7, 7), (12, 12), (13, 12), (0, 1)])
def test_a_count_that_is_data(count, kept):
    matrix, start = problem(9, tied, 3, 50)
    got = on_cpu.diverse_select(matrix, start, 12, "max-min", count=count, index=np.int32)
    assert got.tolist() == twins.diverse_select(matrix, start, kept, "max-min").tolist()


def test_when_all_are_gone_the_picked_are_picked_again():
    """Scores of -inf lie below a pick's -1e38, which is taken off each time: what the loop of the graph does."""
    start = np.array([[2, 1, 0, -1]], np.float32)
    matrix = np.full((1, 4, 4), -np.inf, np.float32)
    matrix[0, :, :2] = 0
    got = on_cpu.diverse_select(matrix, start, 4, "max-sum").tolist()
    assert got == twins.diverse_select(matrix, start, 4, "max-sum").tolist() == [[0, 1, 0, 1]]


def test_an_unknown_form_is_refused():
    data = np.zeros(64, np.float32)
    place = on_cpu.at(data)
    assert on_cpu.library().tp_diverse_select(place, place, 2, place, 8, 1, 4, 2, None, None, None, None) == 1
    assert not data.any()
