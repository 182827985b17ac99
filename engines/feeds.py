"""What an engine takes: its inputs' types and shapes, checked before arrays reach native code."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engines.errors import UserError
from engines.registry import Arrays

Inputs = Mapping[str, tuple[np.dtype[Any], Sequence[int | str | None]]]


def check_feeds(wanted: Inputs, feeds: Arrays) -> None:
    """Compares arrays with the inputs of an engine.

    Args:
        wanted: input name -> (dtype, shape); a word in a shape is one size wherever it occurs, None any size.
        feeds: what the caller wants to run.

    Raises:
        UserError: a missing or unknown name, another dtype, or a shape that does not fit.
    """
    if wanted.keys() != feeds.keys():
        odd = ", ".join(sorted(wanted.keys() ^ feeds.keys()))
        raise UserError(f"missing or unknown inputs: {odd}; the engine takes {', '.join(wanted)}")
    sizes: dict[str, int] = {}
    for key, (kind, shape) in wanted.items():
        got = feeds[key]
        if got.dtype != kind or len(got.shape) != len(shape) or not _fits(shape, got.shape, sizes):
            named = [sizes.get(s, s) if isinstance(s, str) else s for s in shape]
            raise UserError(f"input '{key}' is {got.dtype} {list(got.shape)}, not {kind} {named}")


def _fits(shape: Sequence[int | str | None], got: Sequence[int], sizes: dict[str, int]) -> bool:
    """Whether got is an instance of shape; remembers in sizes what each word stood for."""
    wanted = (sizes.setdefault(s, n) if isinstance(s, str) else s for s, n in zip(shape, got, strict=True))
    return all(want in (None, size) for want, size in zip(wanted, got, strict=True))
