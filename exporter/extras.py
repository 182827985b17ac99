"""The optional parts of an installation: what each extra brings, and what is missing of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement

from engines.errors import UserError

DISTRIBUTION = "tp-export"
TRACED_WITH = ("torch", "transformers", "onnxscript", "huggingface_hub")  # what exporting imports
TARGETS = ("onnxruntime", "tensorrt", "cuda")
INSTALL = f"pip install '{DISTRIBUTION}[export]'"


def require_export(doing: str) -> None:
    """Raises UserError, with the command that helps, where PyTorch or what stands beside it is not installed."""
    if missing := [module for module in TRACED_WITH if not _found(module)]:
        raise UserError(f"{doing} needs {', '.join(missing)}, not installed here: {INSTALL}")


def requirements(extra: str = "") -> Iterator[Requirement]:
    """What pip was told to install with an extra, or with none; but what targets need, which say that themselves."""
    for text in metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(text)
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        known = wanted.name == DISTRIBUTION or wanted.name.startswith(TARGETS)
        if not known and (always if not extra else not always and _holds(wanted, extra)):
            yield wanted


def _holds(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is not None and wanted.marker.evaluate({"extra": extra})


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
