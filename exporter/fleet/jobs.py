"""Jobs, how they end, and the places that do them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from engines.errors import UserError

Outcome = Literal["built", "reused", "refused", "failed"]


@dataclass(frozen=True, eq=False)
class Job:
    """Something to do for a bundle, in a process of its own.

    Attributes:
        bundle: its name.
        what: the column of the table: a target, as written.
        function: "package.module:name" of what does it.
        kwargs: its arguments; JSON can hold them.
        log: receives what is printed.
        kind: of the GPU whose machine must do it.
        gpu: whether it needs a GPU at all.
    """

    bundle: str
    what: str
    function: str
    kwargs: Mapping[str, Any]
    log: Path
    kind: str | None = None
    gpu: bool = False

    def __str__(self) -> str:
        return f"{self.bundle}, {self.what}"


@dataclass(frozen=True)
class End:
    """How a job ended: why not, or what it left; where it was done."""

    outcome: Outcome
    why: str = ""
    seconds: float = 0.0
    bytes: int = 0
    where: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any], seconds: float, where: str = "") -> End:
        """From a job's own answer."""
        return cls(told["outcome"], told.get("why", ""), seconds, told.get("bytes", 0), where)


class Crew(Protocol):
    """Whoever does jobs. Leaving the block ends all that still run."""

    def __enter__(self) -> Crew:
        """Ready for jobs."""

    def __exit__(self, *_: object) -> None:
        """No job goes on behind this."""

    @property
    def room(self) -> bool:
        """Whether it takes one more job now."""

    def start(self, job: Job) -> None:
        """Take a job; it is not waited for."""

    def ended(self) -> list[tuple[Job, End]]:
        """Wait for a moment; what has ended since the last call."""


def reason(error: UserError, what: str) -> str:
    """An error's line without the name of the job, which stands before it anyway."""
    return str(error).removeprefix(f"{what} failed: ")
