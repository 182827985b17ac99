"""Picking tokens one after another, each by what is already picked: one primitive for all diversity methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from exporter.select import DOMAIN, gather_rows

Form = Literal["max-min", "max-sum", "facility", "determinant"]
NEVER = -1e38  # the score of a token that is already picked: finite, because builders are wary of infinities
SMALLEST = 1e-6  # a gain of the determinant is at least this under its square root


def diverse(matrix: Tensor, start: Tensor, keep: int, form: Form) -> Tensor:
    """`keep` tokens in the order in which a greedy search picks them; of equal scores the lower index is first.

    `matrix` `[...,n,n]` and `start` `[...,n]` are taken in fp32; returns int64 `[...,keep]`. By form, each pick c is
    the argmax over the tokens that are left of

    - `max-min`: the least `matrix[s,c]` over the picked s (distances); the first pick is the argmax of `start`;
    - `max-sum`: the sum of `matrix[s,c]` over the picked s; the first pick likewise;
    - `facility`: `start[c] + sum_x max(0, matrix[c,x] - cur[x])`, cur the largest `matrix[s,x]` over the picked, or 0;
    - `determinant`: the determinant of the picked rows and columns of `matrix`, in Cholesky form; `start` its diagonal.

    While exporting this is one marker node, `tp.export::DiverseSelect`, which a graph pass lowers to a loop.
    """
    shape, width = [*start.shape[:-1], keep], start.shape[-1]
    matrix, start = matrix.float().reshape(-1, width, width), start.float().reshape(-1, width)
    if torch.compiler.is_exporting():
        size = [start.shape[0], keep]
        picks = torch.onnx.ops.symbolic(
            f"{DOMAIN}::DiverseSelect",
            (matrix, start),
            {"k": keep, "form": form},
            dtype=torch.int64,
            shape=size,
            version=1,
        )
    else:
        picks = torch.cat(SEARCHES[form](matrix, start, keep), 1)
    return picks.reshape(shape)


def _search(matrix: Tensor, start: Tensor, keep: int, join: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The forms that remember one number of each token, made by joining the rows of the picked ones."""
    picks: list[Tensor] = []
    score = start
    for _ in range(keep):
        pick, row = _best(score, matrix)
        score = (join(score, row) if picks else row).scatter(1, pick, NEVER)  # NEVER survives both ways of joining
        picks.append(pick)
    return picks


def _facility(matrix: Tensor, start: Tensor, keep: int) -> list[Tensor]:
    picks: list[Tensor] = []
    left, covered = start, torch.zeros_like(start)
    for _ in range(keep):
        gain = (matrix - covered[:, None]).relu().sum(-1) + left
        pick, row = _best(gain, matrix)
        left, covered = left.scatter(1, pick, NEVER), torch.maximum(covered, row)
        picks.append(pick)
    return picks


def _determinant(matrix: Tensor, start: Tensor, keep: int) -> list[Tensor]:
    picks: list[Tensor] = []
    gain, factor = start, start.new_zeros(*start.shape, keep)
    for step in range(keep):
        pick, row = _best(gain, matrix)
        root = gain.gather(1, pick).clamp(min=SMALLEST).sqrt()
        explained = (factor * gather_rows(factor, pick)).sum(-1)
        change = (row - explained) / root
        gain = (gain - change * change).scatter(1, pick, NEVER)
        factor[:, :, step] = change
        picks.append(pick)
    return picks


def _best(score: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The first of the largest scores, `[B,1]`, and its row of the matrix, `[B,n]`."""
    pick = score.argmax(-1, keepdim=True)
    return pick, gather_rows(matrix, pick)[:, 0]


SEARCHES: Mapping[Form, Callable[[Tensor, Tensor, int], list[Tensor]]] = {
    "max-min": lambda matrix, start, keep: _search(matrix, start, keep, torch.minimum),
    "max-sum": lambda matrix, start, keep: _search(matrix, start, keep, torch.add),
    "facility": _facility,
    "determinant": _determinant,
}
