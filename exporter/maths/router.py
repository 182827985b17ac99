"""Trained modules that rank tokens: taken from files by name, sizes, values and declared facts checked, and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, relu, silu

from engines.errors import UserError

SEE = "see docs/routers.md"
WIDEST = 2**16  # of a hidden layer
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": relu,
    "gelu": gelu,
    "silu": silu,
    "tanh": torch.tanh,
}


@dataclass
class RouterFile:
    """What a file holds: fp32 tensors by name, and its metadata."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str]
    read: set[str] = field(default_factory=set)

    def tensor(self, name: str, *sizes: int | str) -> Tensor:
        """A tensor of finite values and these sizes; a word stands for any from 1 on.

        Raises:
            UserError: it is missing, of another shape, or not finite.
        """
        if name not in self.tensors:
            there = ", ".join(sorted(self.tensors)[:6]) or "none"
            raise UserError(f"router file: tensor {name} is missing, it holds {there}; {SEE}")
        self.read.add(name)
        found, wanted = self.tensors[name], ", ".join(map(str, sizes))
        fits = len(sizes) == found.dim() and all(
            0 < has <= WIDEST if isinstance(size, str) else has == size
            for size, has in zip(sizes, found.shape, strict=True)
        )
        if not fits:
            raise UserError(f"router file: tensor {name} has shape {list(found.shape)}, not [{wanted}]; {SEE}")
        if not found.isfinite().all():
            raise UserError(f"router file: tensor {name} holds values that are not finite; train or save it anew")
        return found

    def declared(self, name: str, *allowed: str) -> str:
        """A word of the metadata.

        Raises:
            UserError: it is missing or another one.
        """
        found = self._fact(name)
        if found not in allowed:
            raise UserError(f"router file: metadata {name} is '{found}', not {' or '.join(allowed)}; {SEE}")
        return found

    def numbers(self, name: str) -> tuple[float, ...]:
        """Finite numbers of the metadata, with commas between them.

        Raises:
            UserError: it is missing or no such list.
        """
        found = self._fact(name)
        try:
            values = tuple(map(float, found.split(",")))
        except ValueError:
            values = ()
        if not values or not all(map(isfinite, values)):
            raise UserError(f"router file: metadata {name} is '{found}', not numbers such as 4,14,24; {SEE}")
        return values

    def nothing_else(self) -> None:
        """All tensors have been read.

        Raises:
            UserError: there are more than the layout has.
        """
        if unknown := sorted(set(self.tensors) - self.read):
            raise UserError(f"router file: tensor {unknown[0]} is not part of the layout; {SEE}")

    def _fact(self, name: str) -> str:
        if name not in self.facts:
            raise UserError(f"router file: metadata {name} is missing; declare it when saving; {SEE}")
        return self.facts[name].strip()


@dataclass(frozen=True)
class Linear:
    """`x W^T + b`."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, file: RouterFile, name: str, rows: int | str, columns: int) -> Linear:
        """`NAME.weight` `[rows, columns]` and `NAME.bias` `[rows]`."""
        weight = file.tensor(f"{name}.weight", rows, columns)
        return cls(weight, file.tensor(f"{name}.bias", weight.shape[0]))

    @property
    def rows(self) -> int:
        """Its outputs."""
        return int(self.weight.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        """`[...,in]` to `[...,out]`."""
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Perceptron:
    """Two layers with an activation between them."""

    first: Linear
    second: Linear
    activation: str

    def __call__(self, x: Tensor) -> Tensor:
        """`[...,in]` to `[...,out]`."""
        return self.second(ACTIVATIONS[self.activation](self.first(x)))
