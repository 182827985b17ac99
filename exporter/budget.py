"""How many tokens to keep: a count, a ratio or a percentage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from engines.errors import UserError

NUMBER = re.compile(r"[+-]?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})%?", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """A budget as the user wrote it: `64` tokens, or `0.11` / `11%` of them."""

    text: str

    def count(self, total: int) -> int:
        """Tokens to keep of `total`, at least one; a ratio rounds half up.

        Raises:
            UserError: not a number, not positive, or more than there are.
        """
        if not NUMBER.fullmatch(self.text):
            raise UserError(
                f"--keep '{self.text}': not a number; give a count (64), a ratio (0.11) or a percentage (11%)"
            )
        value = Fraction(self.text.rstrip("%"))
        ratio = "%" in self.text or "." in self.text
        if self.text.endswith("%"):
            value /= 100
        if value <= 0:
            raise UserError(f"--keep {self.text}: nothing would be kept; give a count from 1 to {total} or a ratio")
        if value > (1 if ratio else total):
            raise UserError(
                f"--keep {self.text}: more than there is; an image has {total} patches: "
                f"give a count from 1 to {total}, or a ratio up to 1"
            )
        return max(1, int(value * total + Fraction(1, 2))) if ratio else int(value)
