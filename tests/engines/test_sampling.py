import numpy as np
import pytest

from engines.errors import UserError
from engines.sampling import Sampler

LOGITS = np.log(np.array([[0.1, 0.5, 0.25, 0.15]], np.float32))


def shares(sampler, logits=LOGITS, draws=4000):
    tokens = sampler(np.repeat(logits, draws, axis=0))
    return np.bincount(tokens, minlength=logits.shape[1]) / draws


def test_greedy_takes_the_largest_and_the_lower_index_of_equals():
    logits = np.array([[0.0, 3.0, 3.0], [1.0, 1.0, 1.0], [-np.inf, -5.0, -np.inf]], np.float16)
    tokens = Sampler()(logits)
    assert tokens.tolist() == [1, 0, 1]
    assert tokens.dtype == np.int64


def test_draws_follow_the_probabilities():
    np.testing.assert_allclose(shares(Sampler(temperature=1)), [0.1, 0.5, 0.25, 0.15], atol=0.03)


def test_temperature_sharpens():
    squares = np.array([0.1, 0.5, 0.25, 0.15]) ** 2
    np.testing.assert_allclose(shares(Sampler(temperature=0.5)), squares / squares.sum(), atol=0.03)


@pytest.mark.parametrize(("top_p", "nucleus"), [(0.4, [1]), (0.6, [1, 2]), (0.8, [1, 2, 3]), (1.0, [0, 1, 2, 3])])
def test_top_p_draws_from_the_smallest_set_that_reaches_it(top_p, nucleus):
    found = shares(Sampler(temperature=1, top_p=top_p))
    assert np.flatnonzero(found).tolist() == nucleus
    expected = np.exp(LOGITS[0, nucleus]) / np.exp(LOGITS[0, nucleus]).sum()
    np.testing.assert_allclose(found[nucleus], expected, atol=0.03)


def test_equal_probabilities_enter_the_nucleus_by_index():
    found = shares(Sampler(temperature=1, top_p=0.5), np.zeros((1, 4), np.float32))
    assert np.flatnonzero(found).tolist() == [0, 1]


def test_the_same_seed_gives_the_same_tokens():
    logits = np.zeros((3, 1000), np.float32)
    one, same, other = (Sampler(temperature=1, seed=seed) for seed in (5, 5, 6))
    first = [one(logits).tolist() for _ in range(3)]
    assert first == [same(logits).tolist() for _ in range(3)]
    assert first != [other(logits).tolist() for _ in range(3)]
    assert first[0] != first[1]


def test_an_impossible_token_is_never_drawn():
    logits = np.array([[0.0, -np.inf, 0.0]], np.float32)
    assert shares(Sampler(temperature=2), logits)[1] == 0


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(UserError):
        Sampler(**values)


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(UserError, match="NaN"):
        Sampler()(np.array([[0.0, np.nan]], np.float32))
