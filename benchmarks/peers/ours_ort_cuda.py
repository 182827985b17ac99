"""Our graphs in ONNX Runtime on a CUDA GPU; everything between the parts stays on it."""

from __future__ import annotations

from benchmarks.timing import Run
from benchmarks.work import Work

TITLE = "tp-export, ONNX Runtime CUDA"
NEEDS = ("onnxruntime", "torch")
INSTALL = "pip install onnxruntime-gpu"
DEVICES = ("cuda",)


def ready(work: Work, side: str) -> Run:
    """The published graphs, bound to the device's memory."""
    from benchmarks.bound import bound_run

    return bound_run(work, side)
