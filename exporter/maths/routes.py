"""Blocks that run on some of the tokens (FTP): how many pass each by, where to choose and to look, trained scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from engines.errors import UserError
from exporter.maths.router import ACTIVATIONS, SEE, Linear, Perceptron, RouterFile
from exporter.reducer import Stage

FEATURES = 4  # position, attention, its rank, sparsity
MOST = 0.99  # of the tokens pass a block by
LIST = re.compile(r"(0|1|0?\.\d{1,9})(,(0|1|0?\.\d{1,9}))*", re.ASCII)


@dataclass(frozen=True)
class Route(Stage):
    """A block that `sparsity` of the tokens pass by."""

    sparsity: float = 0.0


@dataclass(frozen=True)
class Routers:
    """What a file holds: one router for all blocks, or one for each.

    `execute` is the one of two outputs that says that a token runs. `relative`: whether position and rank are divided
    by the prompt's length. `total`: attention is the sum over queries, not their mean.
    """

    sparsity: tuple[float, ...]
    routers: tuple[Perceptron, ...]
    execute: int
    relative: tuple[bool, ...]
    total: bool

    @classmethod
    def of(cls, file: RouterFile, layers: int) -> Routers:
        """The routers of a file for a decoder of so many layers.

        Raises:
            UserError: the file's layout is not the documented one.
        """
        shares = tuple(file.tensor("sparsity", layers).tolist())
        if not all(0 <= share <= MOST for share in shares):
            raise UserError(f"router file: tensor sparsity holds values outside of 0 to {MOST}; {SEE}")
        shared = file.declared("layout", "shared", "per_block") == "shared"
        activation = file.declared("activation", *(name for name in ACTIVATIONS if name != "none"))
        prefixes = ["router"] if shared else [f"blocks.{layer}.router" for layer in range(layers)]
        routers = tuple(_router(file, prefix, activation) for prefix in prefixes)
        two = any(router.second.rows == 2 for router in routers)
        execute = int(file.declared("execute", "0", "1")) if two else 0
        relative = tuple(file.declared(name, "length", "index") == "length" for name in ("position", "rank"))
        total = file.declared("attention", "mean", "sum") == "sum"
        file.nothing_else()
        return cls(shares, routers, execute, relative, total)

    def scores(self, features: Tensor, layer: int) -> Tensor:
        """`[...]` of features `[...,4]` in one block: by how much a token should rather run."""
        out = self.routers[layer % len(self.routers)](features)
        return out[..., 0] if out.shape[-1] == 1 else out[..., self.execute] - out[..., 1 - self.execute]


def _router(file: RouterFile, prefix: str, activation: str) -> Perceptron:
    first = Linear.of(file, f"{prefix}.fc1", "h", FEATURES)
    second = Linear.of(file, f"{prefix}.fc2", "1 or 2", first.rows)
    if second.rows > 2:
        raise UserError(f"router file: tensor {prefix}.fc2.weight has {second.rows} rows, not 1 or 2; {SEE}")
    return Perceptron(first, second, activation)


def numbers(text: str) -> tuple[float, ...]:
    """Shares such as `0,0.3,0.5,0`; none if the text is empty.

    Raises:
        ValueError: anything else, or a share above `MOST`.
    """
    if not text:
        return ()
    found = tuple(map(float, text.split(","))) if LIST.fullmatch(text) else (1.0,)
    if max(found) > MOST:
        raise ValueError(f"sparsity {text} is no list of numbers from 0 to {MOST}, such as 0,0.3,0.5,0")
    return found


def scaled(shares: Sequence[float], tokens: int, keep: int) -> tuple[float, ...]:
    """The shares that pass each block by, by one factor so that `keep` of `tokens` run in the mean, `MOST` at most.

    As they are where this is what they give by themselves.

    Raises:
        UserError: no token passes any block by, and fewer than all are to run.
    """
    mean = sum(shares) / len(shares)
    if keep == round(tokens * (1 - mean)):
        return tuple(shares)
    if not mean:
        raise UserError(f"--keep {keep}: every block of this sparsity runs on all tokens; give --keep 100%")
    factor = (1 - keep / tokens) / mean
    return tuple(min(share * factor, MOST) for share in shares)


def stages(shares: Sequence[float], tokens: int, *, looks: bool) -> tuple[Stage, ...]:
    """A `Route` for every block that not all tokens run in; with `looks` one at each block in front of such a one."""
    runs = [max(1, round(tokens * (1 - share))) for share in shares]
    found = list[Stage]()
    for layer, (share, keep) in enumerate(zip(shares, runs, strict=True)):
        if keep < tokens:
            found.append(Route("decoder", layer, "around", keep=keep, sparsity=share))
        if looks and layer + 1 < len(runs) and runs[layer + 1] < tokens:
            found.append(Stage("decoder", layer))
    return tuple(found)
