"""Random inputs for the kernels: every length, ties, not-a-numbers, infinities, zeros of both signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

LENGTHS = (1, 2, 31, 32, 33, 255, 256, 257, 576, 1024, 1025)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDTH = 24  # of tokens, which are moved as they are
Draw = Callable[[tuple[int, ...], Generator], Tensor]


@dataclass(frozen=True)
class Scores:
    """Scores `[B,n]` in some precision, how many stay, and what kind of numbers they are."""

    kind: str
    values: Tensor
    k: int

    def __str__(self) -> str:
        batch, n = self.values.shape
        return f"{self.kind}, {str(self.values.dtype).removeprefix('torch.')} [{batch},{n}], k={self.k}"


@dataclass(frozen=True)
class Matrix:
    """A matrix `[B,n,n]`, a start `[B,n]`, both fp32, and how many are picked in which form."""

    kind: str
    values: Tensor
    start: Tensor
    k: int
    form: str

    def __str__(self) -> str:
        return f"{self.kind}, {list(self.values.shape)}, k={self.k}, {self.form}"


def _normal(shape: tuple[int, ...], dice: Generator) -> Tensor:
    return torch.randn(shape, generator=dice)


def _tied(shape: tuple[int, ...], dice: Generator) -> Tensor:
    return torch.randint(-2, 3, shape, generator=dice).float()


def _equal(shape: tuple[int, ...], dice: Generator) -> Tensor:  # noqa: ARG001 - as the others
    return torch.ones(shape)


def _zeros(shape: tuple[int, ...], dice: Generator) -> Tensor:
    return torch.where(_normal(shape, dice) > 0, 0.0, -0.0)


def _odd(value: float, share: float) -> Draw:
    def draw(shape: tuple[int, ...], dice: Generator) -> Tensor:
        return torch.where(torch.rand(shape, generator=dice) < share, value, _tied(shape, dice))

    return draw


KINDS: dict[str, Draw] = {
    "normal": _normal,
    "ties": _tied,
    "all equal": _equal,
    "zeros of both signs": _zeros,
    "some NaN": _odd(float("nan"), 0.1),
    "all NaN": _odd(float("nan"), 1.1),
    "infinities": _odd(float("inf"), 0.1),
    "minus infinities": _odd(float("-inf"), 0.9),
}


def scores(count: int, seed: int = 0) -> Iterator[Scores]:
    """So many cases; kinds, precisions, k = 1 and k = n come by turns."""
    dice = torch.Generator().manual_seed(seed)
    for number in range(count):
        batch, n, k = _sizes(number, 4200, dice)
        kind = list(KINDS)[number % len(KINDS)]
        yield Scores(kind, KINDS[kind]((batch, n), dice).to(DTYPES[number // len(KINDS) % 3]), k)


def matrices(count: int, seed: int = 0) -> Iterator[Matrix]:
    """So many cases; every picked row of a matrix is read whatever it holds."""
    dice, kinds = torch.Generator().manual_seed(seed), ("normal", "ties", "all equal", "some NaN")
    for number in range(count):
        batch, n, k = _sizes(number, 700, dice)
        kind, form = kinds[number % len(kinds)], ("max-min", "max-sum")[number // len(kinds) % 2]
        draw = KINDS[kind]
        yield Matrix(kind, draw((batch, n, n), dice), draw((batch, n), dice), min(k, 128), form)


def _sizes(number: int, most: int, dice: Generator) -> tuple[int, int, int]:
    """Batch, length, k."""
    batch = (1, 2, 3, 8)[_draw(0, 4, dice)]
    n = LENGTHS[_draw(0, len(LENGTHS), dice)] if number % 2 else _draw(1, most, dice)
    n = min(n, most)
    return batch, n, (1, n, _draw(1, n + 1, dice))[number % 3]


def _draw(low: int, high: int, dice: Generator) -> int:
    return int(torch.randint(low, high, (), generator=dice))
