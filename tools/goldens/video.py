"""Taps over the projected rows of a recorded video."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from exporter.eager_taps import EagerTaps, Seen
from exporter.reducer import Grid, Shape


def video_taps(video: Tensor, *, grid: tuple[int, int] | None = None, **more: Any) -> EagerTaps:
    """Taps at the projected stage over rows `[B,F,L,D]`; `more`: other fields, such as carry, as `[B,1,F*L]`."""
    batch, views, patches, _ = video.shape
    side = round(patches**0.5)
    grid = grid or ((side, side) if side * side == patches else (1, patches))
    shape = Shape(patches, Grid(*grid), has_cls=False, views=views, video=True)
    seen = {-1: Seen({"out": video.flatten(1, 2)})}
    return EagerTaps((0,), shape.tokens, shape.tokens, seen, shape, batch=batch, **more)
