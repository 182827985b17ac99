"""TensorRT's two Python modules: which one, which version, what it says, and its plugins."""

import os
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

Native = Any  # neither tensorrt nor tensorrt_rtx has types
STDOUT = 1  # in a child it is the log file
FULL, RTX = "tensorrt", "tensorrt_rtx"


def installed(module: str) -> bool:
    """Whether there is such a module, without importing it."""
    return find_spec(module) is not None


def version_of(trt: Native) -> tuple[int, ...]:
    """Its version as numbers: (10, 3, 0), (1, 7, 1, 116) …."""
    return numbers(str(trt.__version__))


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, such as (10, 3, 0) of "10.3.0.post1"."""
    words = version.split(".")
    count = next((at for at, word in enumerate(words) if not word.isdigit()), len(words))
    return tuple(int(word) for word in words[:count])


def native(module: str) -> Native:
    """The module of that name, imported."""
    return import_module(module)


def listener(trt: Native, *, aloud: bool) -> Native:
    """A logger with a memory.

    Attributes:
        aloud: whether it prints everything as "SEVERITY text".
        first: the first error.
        layers: what the builder said last of the layers of a plan.
    """

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.first = self.layers = ""

        def log(self, severity: Native, message: str) -> None:
            if aloud:
                with suppress(OSError):  # which must not unwind through native frames; a full disk is told otherwise
                    os.write(STDOUT, f"{severity.name} {message}\n".encode())
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.first = self.first or " ".join(message.split())
            if message.startswith("Layers:"):
                self.layers = message

    return Listener()
