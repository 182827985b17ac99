"""Select and TokenSelect: the source of the kernels, run on the CPU, against their twins."""

import numpy as np
import pytest

from plugins import twins
from tests.plugins import on_cpu
from tests.plugins.scores import DTYPES, KINDS, hard, scores, tied, uniform

SIZES = [(1, 1), (2, 1), (31, 7), (32, 32), (33, 32), (64, 63), (65, 1), (100, 50), (144, 72), (577, 64), (577, 577),
         (576, 192), (1024, 1), (1025, 1024), (1500, 3)]  # fmt: skip


def same(got, want):
    """Equal bits."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_select_in_every_order_of_threads(n, k, kind, dtype):
    given = scores(n * k, kind, dtype, 2, n)
    want = twins.select(given, k)
    for order in (0, 1, 2):
        same(on_cpu.select(given, k, order=order), want)


@pytest.mark.parametrize("seed", range(40))
def test_select_of_any_size(seed):
    random = np.random.default_rng(seed)
    n, batch = int(random.integers(1, 900)), int(random.integers(1, 5))
    k = int(random.integers(1, n + 1))
    for kind in KINDS:
        given = scores(seed, kind, DTYPES[seed % 3], batch, n)
        same(on_cpu.select(given, k, order=seed), twins.select(given, k))


@pytest.mark.parametrize("k", [1, 640, 2880])
def test_select_of_a_long_row(k):
    given = scores(k, uniform, np.float32, 3, 2880)
    same(on_cpu.select(given, k, order=5), twins.select(given, k))


def test_many_more_scores_than_threads():
    given = scores(3, tied, np.float16, 1, 70_001)
    same(on_cpu.select(given, 30_000), twins.select(given, 30_000))


def test_indices_of_32_bits_and_leading_axes():
    given = scores(4, hard, np.float32, 2, 3, 99)
    same(on_cpu.select(given, 9, index=np.int32), twins.select(given, 9).astype(np.int32))


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (5, 5), (20, 20), (21, 20), (0, 1), (-3, 1), (1 << 40, 20)])
def test_a_count_that_is_data(count, kept):
    given = scores(5, hard, np.float32, 3, 77)
    same(on_cpu.select(given, 20, count=count), twins.select(given, kept))
    tokens = scores(6, uniform, np.float16, 3, 77, 8)
    got, want = on_cpu.token_select(given, tokens, 20, count=count), twins.token_select(given, tokens, kept)
    for one, other in zip(got, want, strict=True):
        same(one, other)


@pytest.mark.parametrize("dtype", [*DTYPES, np.dtype(np.int8), np.dtype(np.int64)], ids=str)
@pytest.mark.parametrize("width", [1, 3, 8, 20, 64])
@pytest.mark.parametrize("shift", [0, 8])
def test_token_select_moves_rows_of_any_width(width, dtype, shift):
    given = scores(width, hard, DTYPES[width % 3], 2, 145)
    tokens = np.random.default_rng(width).integers(0, 256, (2, 145, width * dtype.itemsize), np.uint8).view(dtype)
    got, want = on_cpu.token_select(given, tokens, 72, order=2, shift=shift), twins.token_select(given, tokens, 72)
    for one, other in zip(got, want, strict=True):
        same(one, other)


@pytest.mark.parametrize(("n", "k", "width"), [(577, 64, 1024), (577, 576, 128), (300, 300, 1), (40, 20, 20_000)])
def test_token_select_over_slices(n, k, width):
    given, tokens = scores(k, uniform, np.float16, 2, n), scores(n, uniform, np.float16, 2, n, width)
    got, want = on_cpu.token_select(given, tokens, k, order=1), twins.token_select(given, tokens, k)
    for one, other in zip(got, want, strict=True):
        same(one, other)


def test_rows_of_several_axes():
    given, tokens = scores(8, tied, np.float32, 2, 30), scores(9, uniform, np.float32, 2, 30, 4, 5)
    same(on_cpu.token_select(given, tokens, 7)[0], twins.token_select(given, tokens, 7)[0])


@pytest.mark.parametrize("sizes", [(4, 1, 5, 6), (8, -1, 5, 5), (8, 1, 5, 0), (3, 1, 5, 5)])
def test_what_cannot_be_is_refused(sizes):
    """Bytes of an index, batch, n, k: an error code, and nothing is written."""
    data = np.zeros(64, np.int64)
    width, batch, n, k = sizes
    code = on_cpu.library().tp_select(on_cpu.at(data), 0, on_cpu.at(data), width, batch, n, k, None, None, None)
    assert code == 1
    assert not data.any()


def test_an_empty_batch_is_nothing():
    data = np.zeros(1, np.int64)
    assert on_cpu.library().tp_select(on_cpu.at(data), 0, on_cpu.at(data), 8, 0, 5, 5, None, None, None) == 0
