"""Dropping near-duplicates round after round from an ordered list: what VisPruner does with the unimportant patches."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.select import DOMAIN, gather_rows


def rounds(total: int, keep: int, step: int) -> list[tuple[int, int]]:
    """How many are alive before each round, and how many of them it drops: at most `step`, never more than half."""
    found = []
    while total > keep:
        drop = min(step, total - keep, (total + 1) // 2)
        found.append((total, drop))
        total -= drop
    return found


def peel(matrix: Tensor, keep: int, step: int) -> Tensor:
    """Places in the list, int64 `[B,keep]`, of those that are left when all rounds are over; in the order of the list.

    `matrix` `[B,n,n]` fp32 are similarities of the list's entries. In each round every other entry, from the first on,
    is scored by its largest similarity to any of those between; the highest scores go (the earlier one, if equal), the
    rest of the scored ones follow each other by descending score, and behind them stand the others as they were.

    While exporting this is one marker node, `tp.export::Peel`, which a graph pass lowers to a loop.
    """
    matrix = matrix.float()
    batch, total = matrix.shape[:2]
    plan = rounds(total, keep, step)
    line = torch.arange(total).expand(batch, -1)
    if not plan or not keep:
        return line[:, :keep]
    if torch.compiler.is_exporting():
        if total % 2:  # the loop's list has two equal halves
            matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::Peel",
            (matrix,),
            {"k": keep, "alive": [alive for alive, _ in plan], "drop": [drop for _, drop in plan]},
            dtype=torch.int64,
            shape=[batch, keep],
            version=1,
        )
    for _, drop in plan:
        line = _round(matrix, line, drop)
    return line


def _round(matrix: Tensor, line: Tensor, drop: int) -> Tensor:
    """The list `[B,R]` after one round, `[B,R-drop]`."""
    scored, others = line[:, ::2], line[:, 1::2]
    between = gather_rows(gather_rows(matrix, scored).transpose(1, 2), others)
    order = between.amax(1).sort(dim=-1, descending=True, stable=True).indices
    return torch.cat([gather_rows(scored, order[:, drop:]), others], 1)
