"""PyTorch modules as a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.timing import Run
from benchmarks.torch_stock import on_device
from benchmarks.work import Work


def torch_run(work: Work, vision: Any, prefill: Any, setup: Mapping[str, float] | None = None) -> Run:
    """Two callables over tensors, without gradients."""
    pixels, words = on_device(work.bench, work.pixels), on_device(work.bench, work.words)

    @torch.inference_mode()
    def see() -> tuple[Any, Any]:
        rows, kept = vision(pixels)
        return rows, kept

    @torch.inference_mode()
    def read(seen: tuple[Any, Any]) -> Any:
        return prefill(words, seen[0])[0]

    return Run(see, read, setup or {})
