"""What the kernels compute, step by step in NumPy: same keys, same digits, same ties, same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
GONE = np.float32(-1e38)  # what a pick adds to its running score
# how the running scores begin, and how a picked row of the matrix joins them; NaN of either one wins
FORMS: Mapping[str, tuple[float, Callable[[Array, Array], Array]]] = {
    "max-min": (1e38, np.minimum),
    "max-sum": (0.0, np.add),
}


def order_keys(scores: Array) -> NDArray[np.uint32]:
    """Unsigned numbers in the order of the scores, of the same shape.

    `scores` is fp32, fp16 or bfloat16 (ml_dtypes). NaN of either sign is the largest, -0 is +0, no key is 0. The order
    of 16-bit floats is that of their widened values: their bits are ranked as they are, moved to the upper half.
    """
    infinity = {"float32": 0x7F800000, "float16": 0x7C000000, "bfloat16": 0x7F800000}[scores.dtype.name]
    wide = scores.dtype.itemsize == 4
    bits = scores.view(np.uint32) if wide else scores.view(np.uint16).astype(np.uint32) << np.uint32(16)
    magnitude, sign = bits & np.uint32(0x7FFFFFFF), np.uint32(1 << 31)
    keys = np.where(bits & sign, ~bits, bits | sign)
    keys = np.where(magnitude == 0, sign, keys)
    keys = np.where(magnitude > infinity, np.uint32(0xFFFFFFFF), keys)
    return keys if wide else keys & np.uint32(0xFFFF0000)


def select(scores: Array, k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest of each row in ascending order; ties to the lower: `[...,n]` -> int64 `[...,k]`."""
    keys = order_keys(np.ascontiguousarray(scores))
    rows = [_walk(row, *_threshold(row, k)) for row in keys.reshape(-1, keys.shape[-1])]
    return np.array(rows, np.int64).reshape(*keys.shape[:-1], k)


def token_select(scores: Array, tokens: Array, k: int) -> tuple[Array, NDArray[np.int64]]:
    """`select`, and those rows of `tokens` `[B,n,*tail]`: kept `[B,k,*tail]` with the same bits, indices `[B,k]`."""
    indices = select(scores, k)
    return np.stack([rows[chosen] for rows, chosen in zip(tokens, indices, strict=True)]), indices


def diverse_select(matrix: Array, start: Array, k: int, form: str) -> NDArray[np.int64]:
    """Picks in their order, `matrix` `[B,n,n]` and `start` `[B,n]` fp32 -> int64 `[B,k]`; ties to the lower index.

    The first pick is the argmax of `start`; each further one of a running score, which is the minimum (`max-min`, at
    most 1e38) or the sum (`max-sum`) of the rows that were picked, and of a pick is 1e38 less each time it is picked.
    """
    pairs = zip(matrix, start, strict=True)
    return np.array([list(_search(rows, first, k, form)) for rows, first in pairs], np.int64).reshape(len(start), k)


def _threshold(keys: Array, need: int) -> tuple[int, int]:
    """The smallest key that stays, and how many of those equal to it do: a digit of 8 bits at a time."""
    prefix = mask = 0
    for shift in (24, 16, 8, 0):
        digits = keys[(keys & np.uint32(mask)) == prefix] >> np.uint32(shift) & np.uint32(255)
        bins = np.bincount(digits, minlength=256)[::-1]
        through = bins.cumsum()
        place = int(np.searchsorted(through, need))
        need -= int(through[place] - bins[place])
        prefix |= 255 - place << shift
        mask |= 255 << shift
    return prefix, need


def _walk(keys: Array, threshold: int, ties: int) -> Array:
    """Ascending indices of the keys above the threshold, and of the first `ties` of those equal to it."""
    equal = keys == threshold
    return np.flatnonzero((keys > threshold) | (equal & (equal.cumsum() <= ties)))


def _search(matrix: Array, start: Array, k: int, form: str) -> Iterator[int]:
    first, join = FORMS[form]
    score, seen = start, np.full_like(start, first)
    for _ in range(k):
        pick = int(order_keys(score).argmax())  # the first of the largest
        yield pick
        with np.errstate(all="ignore"):
            seen = join(seen, matrix[pick])
            seen[pick] += GONE
        score = seen
