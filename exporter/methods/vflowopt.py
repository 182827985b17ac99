"""VFlowOpt: the vision tower says what matters; it is merged before the decoder and cut twice inside it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.cells import cells, condensed, fields
from exporter.maths.depths import at_depth
from exporter.maths.focus import entropies, focus
from exporter.maths.searched import DEPTH, LAYERS, Scalars, scalars, shares
from exporter.maths.staircase import places_of
from exporter.reducer import Positions, Reducer, Selection, Shape, Stage, Taps
from exporter.scores import same_depth, scored_layer
from exporter.select import top_k

LAYER, TOWER = 25, 27  # 0-based, of the authors' SigLIP
LARGEST = 1e4


@dataclass(frozen=True)
class Tuned(Stage):
    """A place with the scalars of the budget that it uses: `t` in the tower, `m` behind the projector."""

    t: float = 0.0
    m: float = 1.0


@dataclass(frozen=True)
class VFlowOpt(Reducer):
    """Rank by attention of the tower's global tokens, once before the decoder and twice inside it.

    P is the head mean of attention in SigLIP's layer 25 of 27; global are the patches that receive more than t times
    the mean. `importance = mean over global g of P[g, :] + alpha_v softmax(H)`, fp32, H the entropy of each patch's
    grey levels. Of M tokens behind the projector the `round(M (1 - r_v)) + int(M / m^2)` least important ones merge, in
    each cell of m x m tokens of the whole picture and of the canvas of its tiles, into the most important of them,
    weighted by importance. Single pictures and videos only lose `round(M (1 - r_v))`. Behind decoder layers 9 and 18
    the `round(n (1 - rho))` of n that are least important go; the others keep their order and positions. Budget: mean
    of a picture's tokens over the decoder's layers. At 10%, 25% and 50% the scalars are the authors'; elsewhere t, m
    and rho lie on straight lines between these (rho = 1 at all tokens; below 10% as at 10%), and r_v follows.

    Attributes:
        t: how many times the mean a global token receives at least.
        alpha_v: weight of the entropy; 0, as in the authors' best settings, leaves it out.
        m: side of a cell, in tokens.
        r_v: share of a picture that the decoder gets.
        rho: share that each cut in the decoder leaves, such as `0.98334,0.87733`.
        layers: to cut behind, counted from 1; by default 9 and 18 of 28, or at the same share of the depth.

    Raises:
        ValueError: a number out of its range, or not as many rho as layers.
        UserError: layers that the decoder does not have.

    Source: *VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization*, arXiv
    2508.05211 (ICCV 2025); authors' code.
    """

    title = "VFlowOpt"
    paper = "VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization"
    arxiv = "2508.05211"
    site = "encoder + decoder"
    positions = "keep"
    differences = (
        "every decoder layer is causal; the released code drops the mask in the layer before the first cut",
        "cells without tokens to merge keep the next best ones, so that counts are constant",
        "a picture of one view is cut to its most important tokens; the authors' code leaves it whole there",
        "rows that end the canvas' lines are not there to be ranked; black borders of the canvas are",
        "where no token receives enough, the one that receives most is global; the authors' code has no number then",
        "several pictures: tiles of each merge; the authors' code only cuts them",
        "other towers: the layer at the same depth; where that one sees windows, the last before it that does not",
        "scores are fp32 and ties go to the lower index",
    )

    t: float | None = None
    alpha_v: float = 0.0
    m: float | None = None
    r_v: float | None = None
    rho: str = ""
    layers: str = ""

    def __post_init__(self) -> None:
        given = {"t": (self.t, 0, LARGEST), "m": (self.m, 1, LARGEST), "r_v": (self.r_v, 1e-9, 1)}
        for name, (value, least, most) in given.items():
            if value is not None and not (isinstance(value, (int, float)) and least <= value <= most):
                raise ValueError(f"{name} {value} is no number from {least:g} to {most:g}")
        if not -LARGEST < self.alpha_v < LARGEST:
            raise ValueError(f"alpha_v {self.alpha_v} is no number")
        places, left = places_of(self.layers) or LAYERS, shares("rho", self.rho)
        if len(places) != len(left or LAYERS):
            raise ValueError(f"{len(places)} layers and {len(left or LAYERS)} rho: give as many of both")
        if self.alpha_v:
            object.__setattr__(self, "needs", frozenset({"pixels"}))

    @property
    def entry(self) -> Positions:
        """What reaches the decoder is numbered anew."""
        return "renumber"

    def scalars(self, tokens: int, keep: int) -> Scalars:
        """As given, else those of the budget."""
        own = scalars(tokens, keep)
        return Scalars(
            own.t if self.t is None else float(self.t),
            own.m if self.m is None else float(self.m),
            own.r_v if self.r_v is None else float(self.r_v),
            shares("rho", self.rho) or own.rho,
        )

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look in the tower, a cut behind the projector, cuts in the decoder."""
        total, keep = shape.tokens, budget.count(shape.tokens)
        if keep == total and self.r_v is None and not self.rho:
            return ()
        chosen = self.scalars(total, keep)
        left = max(1, total - round(total * (1 - chosen.r_v)))
        if merges(shape) and left < total:
            gone = min(total, total - left + int(total / chosen.m**2))
            left = min(total, total - gone + 1 + max(cells(fields(shape), chosen.m)))
        cuts = self._cuts(shape, left, chosen.rho)
        if left == total and not cuts:
            return ()
        look = Tuned("tower", scored_layer(shape, same_depth(LAYER, TOWER, shape)), t=chosen.t)
        return look, Tuned("projected", keep=left, m=chosen.m), *cuts

    def _cuts(self, shape: Shape, entered: int, rho: tuple[float, ...]) -> tuple[Stage, ...]:
        counts = [entered]
        for share in rho:
            counts.append(max(1, counts[-1] - round(counts[-1] * (1 - share))))
        own = tuple(layer - 1 for layer in places_of(self.layers) or LAYERS)
        layers = own if self.layers else at_depth(own, DEPTH, shape.decoder_layers)
        if not layers or layers[-1] > shape.decoder_layers - 2:
            raise UserError(
                f"--method vflowopt: cannot cut behind layers {','.join(str(layer + 1) for layer in own)} of "
                f"{shape.decoder_layers}; give --param layers= up to the last but one"
            )
        found, now = list[Stage](), entered
        for layer, count in zip(layers, counts[-len(layers) :], strict=True):
            if count < now:
                found.append(Stage("decoder", layer, keep=count))
            now = count
        return tuple(found)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Importance for later, or what it leaves."""
        if isinstance(stage, Tuned) and stage.stack == "tower":
            return Selection(carry={"importance": self.importance(taps, stage)})
        assert stage.keep is not None
        importance = taps.carry["importance"].float()
        if isinstance(stage, Tuned) and merges(taps.shape) and stage.keep < importance.shape[-1]:
            cell = cells(fields(taps.shape), stage.m)
            kept, mix = condensed(importance[:, 0], cell, stage.keep, stage.keep - 1 - max(cell))
            return Selection(indices=kept[:, None], mix=mix[:, None], mix_rows=tuple(range(stage.keep)))
        return Selection(indices=top_k(importance, stage.keep), scores=importance)

    def importance(self, taps: Taps, stage: Tuned) -> Tensor:
        """`[B,I,N]` fp32 of one view."""
        seen = focus(taps, stage.layer, stage.t)
        if not self.alpha_v:
            return seen
        return seen + self.alpha_v * entropies(taps.inputs["pixels"], taps.shape.grid).softmax(-1)[:, None]


def merges(shape: Shape) -> bool:
    """Whether what goes is merged: of pictures seen as a whole and in tiles."""
    return shape.views > 1 and not shape.video


METHOD = VFlowOpt
