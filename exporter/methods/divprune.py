"""DivPrune: keep the tokens that lie farthest from each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.greedy import diverse
from exporter.maths.similarity import cosines
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending


@dataclass(frozen=True)
class DivPrune(Reducer):
    """Farthest-point search over projected tokens, the greedy solution of the max-min diversity problem.

    With distances `d(i,j) = 1 - cos(x_i, x_j)` the first pick is the token whose nearest other token is farthest, and
    each further one the token whose least distance to the picked ones is largest. Kept in the original order. No
    attention and no text: any tower will do. Budget: tokens of a picture, all its views together.

    Source: *DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models*, arXiv 2503.02175 (CVPR 2025).

    """

    title = "DivPrune"
    paper = "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models"
    arxiv = "2503.02175"
    differences = (
        "the maximin problem is solved greedily, as the authors' code does, not exactly",
        "a running minimum replaces their minimum over all picked rows at each step: equal values, one row a step",
        "distances are fp32 and ties go to the lower index; theirs have the model's dtype, where ties are frequent",
        "a picked token is out of the race; theirs is only unlikely to be picked again",
        "a row of zeros has cosine 0 with every row, theirs NaN",
        "a share given as --keep rounds half up, theirs half to even; every picture of a prompt is pruned, theirs one",
        "views without the separators (newline rows) that their LLaVA-NeXT branch counts as candidates",
    )

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut, behind the projector."""
        return (Stage("projected", keep=budget.count(shape.tokens)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The farthest points, in their original order."""
        assert stage.keep is not None
        picks = farthest(1 - cosines(taps.hidden(-1)), stage.keep)
        return Selection(indices=ascending(picks)[:, None])


def farthest(distances: Tensor, keep: int) -> Tensor:
    """Tokens in the order in which they are picked, int64 `[B,keep]`, from `[B,n,n]` fp32 distances."""
    nearest = torch.topk(distances, min(2, distances.shape[-1]), dim=-2, largest=False).values[:, -1]  # not itself
    return diverse(distances, nearest, keep, "max-min")


METHOD = DivPrune
