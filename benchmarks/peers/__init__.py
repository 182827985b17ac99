"""One line of the comparison a file, found by its name (`torch_eager.py` is `torch-eager`).

A peer module has TITLE, NEEDS (packages that must be importable), INSTALL (the command that brings them) and
`ready(work, side) -> Run`, side "dense" or "pruned". It may have BATCHES, the batches that it takes part in, and
DEVICES, ("cpu",) unless given. UserError is how `ready` says that it cannot run here.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.util import find_spec
from types import ModuleType


def names() -> list[str]:
    """Every peer, ours first."""
    found = [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]
    return sorted(found, key=lambda name: (not name.startswith("ours"), name))


def peer(name: str) -> ModuleType:
    """The module of that name; it imports nothing that may be missing."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def missing(module: ModuleType) -> str | None:
    """None if its packages are there, else one line with the command that brings them."""
    lacks = [package for package in module.NEEDS if not find_spec(package)]
    return f"{', '.join(lacks)} is not installed: {module.INSTALL}" if lacks else None
