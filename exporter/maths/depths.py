"""Schedules over the decoder's layers: the authors' places and shares, carried over to other depths and budgets."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def at_depth(layers: Sequence[int], of: int, has: int) -> tuple[int, ...]:
    """Layers of a decoder with `of` layers as those of one with `has`, at the same share of its depth.

    0-based, rising, `has - 2` at most; where there is no room for all, the first ones are left out.
    """
    if of == has:
        return tuple(layers)
    found = list[int]()
    for layer in reversed(layers):
        most = min(found[-1] - 1 if found else has - 2, has - 2)
        place = min(round(Fraction(layer * has, of)), most)
        if place < 0:
            break
        found.append(place)
    return tuple(reversed(found))


def shrunk(total: int, keep: int, ratios: Sequence[float]) -> tuple[int, ...]:
    """Counts that fall to `keep`, as the authors' shares of `total` fall to the last of them.

    `int(total ratio)` each where the last of these is `keep`; else the same curve between `total` and `keep`.
    """
    own = tuple(int(total * ratio) for ratio in ratios)
    if own[-1] == keep:
        return own
    exact = [Fraction(str(ratio)) for ratio in ratios]
    last = exact[-1]
    return tuple(keep + int((total - keep) * (ratio - last) / (1 - last)) for ratio in exact)
