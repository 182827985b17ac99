"""Which slots of a cache stay: budgets, places among the tokens, and the choice in slots filled from the front."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.slots import EMPTY
from exporter.reducer import Shape
from exporter.select import ascending, ranked

BEHIND = 2**31 - 1  # sorts behind every place
FORCED, NEVER = torch.finfo(torch.float32).max, torch.finfo(torch.float32).min


def slots_of(budget: Budget, shape: Shape) -> int | None:
    """Slots of a cache: a count, or a share of a picture's tokens; None where all are kept (100%).

    Raises:
        UserError: a share where there are no pictures.
    """
    if "%" not in budget.text and "." not in budget.text:
        return budget.count(BEHIND)
    if budget.count(BEHIND) == BEHIND:
        return None
    if not shape.tokens:
        raise UserError(f"--keep {budget.text}: a share counts a picture's tokens, and there are none; give a count")
    return budget.count(shape.tokens)


def places(valid: Tensor) -> Tensor:
    """`[B,n]` int64: each token's place among the tokens of its sequence; `valid` `[B,n]` bool may have holes."""
    return valid.to(torch.int64).cumsum(1) - 1


def counted(valid: Tensor) -> Tensor:
    """`[B,1]` int64: tokens of each sequence."""
    return valid.to(torch.int64).sum(1, keepdim=True)


def by_key_head(values: Tensor, heads: int) -> Tensor:
    """`[B,H,n]` of query heads summed to `[B,heads,n]`: each key head serves a group of them."""
    batch, queries, length = values.shape
    return values.reshape(batch, heads, queries // heads, length).sum(2)


def between_ends(scores: Tensor, valid: Tensor, first: int, last: int) -> Tensor:
    """`[B,Hkv,n]` with the first `first` and the last `last` tokens of each sequence above all others."""
    place = places(valid)
    ends = (place < first) | (place >= counted(valid) - last)
    return torch.where(ends[:, None], FORCED, scores)


def best_slots(scores: Tensor, valid: Tensor, keep: int, *, spare: bool = True) -> Tensor:
    """The `keep` tokens with the largest `[B,Hkv,n]`, ascending: int64 `[B,Hkv,keep]`, then `EMPTY` for want of tokens.

    Ties go to the lower index. `spare`: n may be less than `keep`.
    """
    scores = torch.where(valid[:, None], scores.float(), NEVER)
    if spare:
        scores = pad(scores, (0, keep), value=NEVER)
    there = torch.arange(keep) < counted(valid)[:, None]
    order = ascending(torch.where(there, ranked(scores, keep), BEHIND))
    return torch.where(there, order, EMPTY)
