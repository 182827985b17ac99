"""One object of a configuration file, asked value by value."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import UserError

LARGEST = 2**24  # of a width: the product of two still fits 64 bits
ABSENT = object()


@dataclass(frozen=True)
class Section:
    """One object of a configuration file; `values` is a dict, or what transformers made of one."""

    path: Path
    name: str
    values: Any

    def get(self, key: str, default: object = ABSENT) -> Any:
        """A value of any kind."""
        found = self.values.get(key, ABSENT) if isinstance(self.values, dict) else getattr(self.values, key, ABSENT)
        if found is ABSENT:
            found = default
        if found is ABSENT:
            raise self.wrong(key, "is missing")
        return found

    def wrong(self, key: str, what: str) -> UserError:
        """The line about one value."""
        return UserError(f"{self.path}: {self.name + '.' if self.name else ''}{key} {what}")

    def whole(self, key: str, default: object = ABSENT, *, least: int = 1, most: int = LARGEST) -> int:
        """An integer within bounds."""
        found = self.get(key, default)
        if type(found) is not int or not least <= found <= most:
            raise self.wrong(key, f"is {shown(found)}, not a whole number from {least} to {most}")
        return int(found)

    def multiple(self, key: str, of: str) -> None:
        """Both are sizes, and the first is so many times the second."""
        whole, part = self.whole(key), self.whole(of)
        if whole % part:
            raise self.wrong(key, f"is {whole}, not a multiple of {of} {part}")

    def number(self, key: str, default: object = ABSENT, *, positive: bool = True) -> float:
        """A finite number."""
        found = self.get(key, default)
        if not _is_number(found) or (positive and found <= 0):
            raise self.wrong(key, f"is {shown(found)}, not a {'positive ' if positive else ''}number")
        return float(found)

    def three(self, key: str, *, positive: bool = False) -> list[float]:
        """Three finite numbers, one for each colour."""
        found = self.get(key)
        if not isinstance(found, list) or len(found) != 3 or not all(_is_number(v) for v in found):
            raise self.wrong(key, f"is {shown(found)}, not three numbers")
        if positive and min(found) <= 0:
            raise self.wrong(key, f"is {shown(found)}: every number must be positive")
        return [float(v) for v in found]

    def one_of(self, key: str, allowed: Collection[Any], default: object = ABSENT) -> Any:
        """One of a few values."""
        found = self.get(key, default)
        if not any(type(found) is type(value) and found == value for value in allowed):
            raise self.wrong(key, f"is {shown(found)}; supported: {', '.join(map(str, allowed))}")
        return found


def _is_number(value: object) -> bool:
    return (type(value) is int and abs(value) < 2**53) or (isinstance(value, float) and math.isfinite(value))


def shown(value: object) -> str:
    """A value for an error line, however long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
