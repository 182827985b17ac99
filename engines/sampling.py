"""From logits to tokens: greedy, or drawn with a temperature from the most probable tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError

Logits = NDArray[np.floating[Any]]
PickTokens = Callable[[Logits], NDArray[np.int64]]


@dataclass
class Sampler:
    """Picks one token per sequence; equal logits go to the lower token id.

    Attributes:
        temperature: 0 takes the most probable token; above, logits are divided by it before drawing.
        top_p: Draws from the smallest set of most probable tokens whose probability reaches this, in (0, 1].
        seed: Of the random numbers (PCG64): same seed, same tokens.

    Raises:
        UserError: A value is out of range, or logits are NaN.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the values and starts the random numbers."""
        if not (0 <= self.temperature < float("inf")):
            raise UserError(f"temperature {self.temperature}: must be 0 (greedy) or a positive number")
        if not (0 < self.top_p <= 1):
            raise UserError(f"top_p {self.top_p}: must be above 0 and at most 1")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: must not be negative")
        self._random = np.random.Generator(np.random.PCG64(self.seed))

    def __call__(self, logits: Logits) -> NDArray[np.int64]:
        """Picks tokens.

        Args:
            logits: [B, V] of any float type.

        Returns:
            [B] int64.
        """
        if np.isnan(logits).any():
            raise UserError("the decoder returned NaN logits: its precision overflows; use --dtype fp32")
        if self.temperature == 0:
            return np.asarray(logits.argmax(axis=-1), np.int64)
        draws = self._random.random(len(logits))
        return np.array([self._draw(row, draw) for row, draw in zip(logits, draws, strict=True)], np.int64)

    def _draw(self, logits: Logits, draw: float) -> int:
        scaled = (logits.astype(np.float64) - logits.max()) / self.temperature
        order = np.argsort(-scaled, kind="stable")
        mass = np.cumsum(np.exp(scaled[order]))
        nucleus = int(np.searchsorted(mass, self.top_p * mass[-1])) + 1
        chosen = np.searchsorted(mass[:nucleus], draw * mass[:nucleus][-1], side="right")
        return int(order[min(int(chosen), nucleus - 1)])
