"""How many jobs this machine takes at once."""

from __future__ import annotations

from pathlib import Path

from engines.graph_engine import cpus
from engines.memory import available
from exporter.fleet.matrix import Matrix
from exporter.recipe import Recipe

BASE = 2 * 2**30  # bytes of memory that any export takes
COPIES = {"full": 8, "vision": 2, "none": 2}  # of a checkpoint in 16 bits that are in memory: reference, sessions, plan


def room(matrix: Matrix) -> int:
    """One for each CPU, fewer where the memory does not suffice; at least one."""
    free = available()
    if free is None:
        return cpus()
    most = max(_need(bundle.recipe) for bundle in matrix.bundles)
    return max(1, min(cpus(), free // most))


def _need(recipe: Recipe) -> int:
    """Bytes of memory, from the size of the checkpoint where it is a folder here."""
    folder = Path(recipe.model).expanduser()
    return BASE + COPIES[recipe.parity] * sum(file.stat().st_size for file in folder.glob("*.safetensors"))
