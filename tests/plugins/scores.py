"""Random scores with all that makes ranking hard."""

import ml_dtypes
import numpy as np

DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
HARD = (np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 6e-8, -6e-8, 1e38, -1e38, 65504.0)


def uniform(random, *shape):
    """Like attention: all of one exponent or two."""
    return random.uniform(0.001, 0.002, shape)


def tied(random, *shape):
    """A few values only."""
    return random.integers(-2, 3, shape) / 4


def hard(random, *shape):
    """NaN of either sign, infinities, zeros of either sign, denormals, among normal numbers."""
    values = random.normal(size=shape)
    special = random.choice(np.array(HARD), shape)
    return np.where(random.random(shape) < 0.5, special, values)


def any_bits(random, *shape):
    """Every float there is."""
    return random.integers(0, 1 << 32, shape, np.uint32).view(np.float32)


KINDS = (uniform, tied, hard, any_bits)


def scores(seed, kind, dtype, *shape):
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(kind(np.random.default_rng(seed), *shape).astype(np.float32).astype(dtype))
