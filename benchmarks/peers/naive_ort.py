"""What a user gets without us: `torch.onnx.export` of the papers' code as it is, in ONNX Runtime."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.timing import Run
from benchmarks.work import BEFORE, Work

TITLE = "papers' code exported as it is, ONNX Runtime"
NEEDS = ("torch", "transformers", "onnxscript", "onnxruntime")
INSTALL = "pip install torch transformers onnxscript onnxruntime"
BATCHES = (1,)  # the shapes of one picture and one prompt are constants in it


def ready(work: Work, side: str) -> Run:
    """Two graphs with PyTorch's own defaults."""
    import torch

    from benchmarks.torch_parts import PaperVision, Prefill
    from benchmarks.torch_stock import on_device, stock_model
    from engines.registry import engine

    bench, model = work.bench, stock_model(work.bench, "eager")
    vision = PaperVision(model, bench.keep if side == "pruned" else None)
    pixels, words = on_device(bench, work.pixels), on_device(bench, work.words)
    with torch.no_grad():
        rows = vision(pixels)[0]
    start = time.perf_counter()
    folder = bench.root / f"naive-{side}"
    folder.mkdir()
    seen = _exported(vision, (pixels,), folder / "vision.onnx")
    read = _exported(Prefill(model, BEFORE), (words, rows), folder / "prefill.onnx")
    setup = {"export": time.perf_counter() - start}
    see, go_on = (engine("ort-cpu").load(path) for path in (seen, read))

    def look() -> tuple[Any, Any]:
        found = list(see({"pixels": work.pixels}).values())
        return found[0], found[1] if len(found) > 1 else None

    return Run(look, lambda seen: next(iter(go_on({"words": work.words, "rows": seen[0]}).values())), setup)


def _exported(module: Any, example: tuple[Any, ...], path: Path) -> Path:
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, example, dynamo=True, verbose=False)
    assert program is not None
    program.save(path, external_data=True)
    return path
