"""Lists of numbers as parameters of a method: one count for each layer."""

from __future__ import annotations

import re
from itertools import pairwise

LIST = re.compile(r"\d{1,6}(,\d{1,6})*", re.ASCII)


def counts(name: str, text: str) -> tuple[int, ...]:
    """The numbers of `text`, such as `112,83,36`; none if it is empty.

    Raises:
        ValueError: anything else.
    """
    if text and not LIST.fullmatch(text):
        raise ValueError(f"{name} {text} is no list of numbers such as 112,83,36")
    return tuple(map(int, text.split(","))) if text else ()


def falling(numbers: tuple[int, ...], most: int, least: int) -> bool:
    """Whether they start at `most` or below, never rise, and end at `least`."""
    line = (most, *numbers)
    return line[-1] == least and all(a >= b for a, b in pairwise(line))
