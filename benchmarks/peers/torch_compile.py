"""The same, compiled: `torch.compile` of vision and prefill; what compiling takes is told apart."""

from __future__ import annotations

import shutil
import time

from benchmarks.timing import Run
from benchmarks.work import BEFORE, Work
from engines.errors import UserError

TITLE = "pruning on fused attention, torch.compile"
NEEDS = ("torch", "transformers")
INSTALL = "pip install torch transformers"
BATCHES = (1, 8)  # another batch is compiled anew: minutes that say nothing new; 8 on a GPU
DEVICES = ("cpu", "cuda")


def ready(work: Work, side: str) -> Run:
    """Compiles by running once.

    Raises:
        UserError: there is no C++ compiler.
    """
    import torch

    from benchmarks.torch_parts import LeanVision, Prefill
    from benchmarks.torch_run import torch_run
    from benchmarks.torch_stock import stock_model

    if not (shutil.which("g++") or shutil.which("clang++")):
        raise UserError("torch.compile needs a C++ compiler: apt-get install g++")
    torch._dynamo.reset()  # noqa: SLF001 - else the fourth graph meets the third's limits
    model = stock_model(work.bench, "sdpa")
    vision = LeanVision(model, work.bench.keep if side == "pruned" else None)
    seeing, reading = (torch.compile(module, dynamic=False) for module in (vision, Prefill(model, BEFORE)))
    run = torch_run(work, seeing, reading)
    start = time.perf_counter()
    run.prefill(run.vision())
    return torch_run(work, seeing, reading, {"compile": time.perf_counter() - start})
