"""Our graphs in ONNX Runtime, as `--target ort-cpu` runs them."""

from __future__ import annotations

from benchmarks.ours import played
from benchmarks.timing import Run
from benchmarks.work import Work

TITLE = "tp-export, ONNX Runtime"
NEEDS = ("onnxruntime",)
INSTALL = "pip install onnxruntime"


def ready(work: Work, side: str) -> Run:
    """The backend that ships."""
    return played(work, side, "ort-cpu")
