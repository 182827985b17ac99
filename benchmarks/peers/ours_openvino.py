"""Our graphs in OpenVINO, as `--target ov-cpu` runs them."""

from __future__ import annotations

from benchmarks.ours import played
from benchmarks.timing import Run
from benchmarks.work import Work

TITLE = "tp-export, OpenVINO"
NEEDS = ("openvino",)
INSTALL = "pip install openvino"


def ready(work: Work, side: str) -> Run:
    """The backend that ships."""
    return played(work, side, "ov-cpu")
