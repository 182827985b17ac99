"""What a check found, as a line of a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engines.tables import Table


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, and whether it is right; None where there was nothing to compare."""

    section: str
    what: str
    good: bool | None
    detail: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """The verdict."""
        return {True: "ok", False: "WRONG", None: "-"}[self.good]


def table(findings: Sequence[Finding]) -> Table:
    """All of them."""
    rows = [(each.section, each.what, each.word, each.detail) for each in findings]
    wrong = sum(each.good is False for each in findings)
    return Table("GPU check", ("section", "what", "", "found"), tuple(rows), f"{wrong} of {len(rows)} lines are wrong")


def told(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """As JSON holds them."""
    return [asdict(each) for each in findings]
