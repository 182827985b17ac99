"""What a figure must be read with: the machine, the versions, the command."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "openvino", "openvino-genai", "numpy")


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about() -> dict[str, Any]:
    """Command, machine, versions; `load` is the run queue before anything was measured."""
    return {
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "machine": {"cpu": _cpu(), "cpus": cpus(), "system": platform.platform(), "load": os.getloadavg()[0]},
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def rss_mib() -> float:
    """Memory of this process in RAM."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
