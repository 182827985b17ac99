"""Whether what an export compares with PyTorch fits into this machine, asked before any work."""

from __future__ import annotations

from engines.errors import UserError
from engines.memory import FLOAT, available
from exporter.draft import Draft
from exporter.eyes import numbers

LARGE = 2**30  # less than that is not worth a look


def check_memory(draft: Draft, runnable: int) -> None:
    """The reference and the sessions of `runnable` precisions are in memory at once.

    Raises:
        UserError: they take more than is free.
    """
    mode, free = draft.recipe.parity, available()
    if mode == "none" or free is None:
        return
    need = FLOAT * (1 + runnable) * numbers(draft, whole=mode == "full")
    if need > max(free, LARGE):
        less = "vision compares its vision parts alone, none nothing" if mode == "full" else "none compares nothing"
        raise UserError(
            f"--parity {mode}: to compare {draft.recipe.model} with PyTorch takes about {need / 2**30:.0f} GiB of "
            f"memory, {free / 2**30:.0f} GiB are free: --parity {less}"
        )
