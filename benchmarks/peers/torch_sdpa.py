"""PyTorch at its best without a compiler: fused attention, used layers only, one recomputed row of scores."""

from __future__ import annotations

from benchmarks.timing import Run
from benchmarks.work import BEFORE, Work

TITLE = "pruning on fused attention, PyTorch"
NEEDS = ("torch", "transformers")
INSTALL = "pip install torch transformers"
DEVICES = ("cpu", "cuda")


def ready(work: Work, side: str) -> Run:
    """Hugging Face's model with scaled_dot_product_attention."""
    from benchmarks.torch_parts import LeanVision, Prefill
    from benchmarks.torch_run import torch_run
    from benchmarks.torch_stock import stock_model

    model = stock_model(work.bench, "sdpa")
    return torch_run(work, LeanVision(model, work.bench.keep if side == "pruned" else None), Prefill(model, BEFORE))
