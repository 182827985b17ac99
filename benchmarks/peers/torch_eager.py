"""The papers' own shape in PyTorch: every attention map kept, every layer run, every row projected."""

from __future__ import annotations

from benchmarks.timing import Run
from benchmarks.work import BEFORE, Work

TITLE = "papers' code, PyTorch"
NEEDS = ("torch", "transformers")
INSTALL = "pip install torch transformers"
DEVICES = ("cpu", "cuda")


def ready(work: Work, side: str) -> Run:
    """Hugging Face's model with eager attention."""
    from benchmarks.torch_parts import PaperVision, Prefill
    from benchmarks.torch_run import torch_run
    from benchmarks.torch_stock import stock_model

    model = stock_model(work.bench, "eager")
    vision = PaperVision(model, work.bench.keep if side == "pruned" else None)
    return torch_run(work, vision, Prefill(model, BEFORE))
