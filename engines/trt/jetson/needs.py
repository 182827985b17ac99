"""What plans take of a board's memory, reckoned from a bundle's own numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

GIB, MIB = 2**30, 2**20
SYSTEM = 1.5 * GIB  # of a board without a desktop, with TensorRT and CUDA loaded
TWICE = 2  # a builder holds the weights that it reads and the plan that it writes


@dataclass(frozen=True)
class Needs:
    """What the plans of a bundle take.

    Attributes:
        weights: bytes by part, in its order.
        cache: bytes of all caches at their longest, for the largest batch.
        workspace: MiB of scratch memory that a layer may take.
    """

    weights: dict[str, int]
    cache: int
    workspace: int

    @property
    def building(self) -> float:
        """Bytes while the largest part is built."""
        return SYSTEM + TWICE * max(self.weights.values()) + self.workspace * MIB

    @property
    def running(self) -> float:
        """Bytes while all plans are loaded; what layers hand each other comes on top, and is small beside weights."""
        return SYSTEM + sum(self.weights.values()) + self.cache


def table(needs: Needs, boards: Sequence[int]) -> list[str]:
    """A line for each size of memory in GiB: whether the plans can be built there, and run."""
    said = {True: "yes", False: "no"}
    rows = [("memory", "builds", "runs")]
    rows += [(f"{size} GB", said[needs.building < size * GIB], said[needs.running < size * GIB]) for size in boards]
    return ["  ".join(cell.ljust(8) for cell in row).rstrip() for row in rows]
