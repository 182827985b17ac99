"""ATP-LLaVA: trained modules between decoder layers set thresholds that each picture's tokens must pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.asked import by_text
from exporter.maths.counts import counts
from exporter.maths.router import RouterFile
from exporter.maths.thresholds import Module, margins, modules, mutual
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import gather_rows, top_k

GONE = -4.0  # below any margin
UNSEEN = -1e4  # an attention logit: finite in fp16, and no weight is left of it


@dataclass(frozen=True)
class AtpLlava(Reducer):
    """Behind some decoder layers a token stays if it passes one of two thresholds that a trained module sets.

    `S = (S_self + S_cross) / 2`, fp32: the attention that it receives from the picture's tokens, and from the text
    behind the picture, each the mean over heads and rows of that layer. `S_spatial = 1 - R lambda` on a grid of stride
    `round(R^-1/2)` in the uncut picture; other tokens never pass it. From all S_self and S_cross the module computes
    thresholds r and s; kept is `S > r or S_spatial > s`. As counts are fixed, the k tokens with the largest
    `max(S - r, S_spatial - s)` stay in their order, and those of them that do not pass are masked: the result is the
    dynamic one wherever at most k pass. Outputs: `tokens.LAYER`, how many passed, and `overflow.LAYER`, 1 where these
    are more than k. Positions stay. Give the modules with --aux router=FILE.safetensors (docs/routers.md); the language
    model that was trained with them is the checkpoint. Budget: tokens of a picture behind the last module; before that
    `N (keep / N)^(i / n)` behind module i of n. 100% is the dense model.

    Attributes:
        counts: tokens behind each module, such as `288,216,72`; then --keep says nothing (unless it is 100%).

    Raises:
        ValueError: counts that are no numbers.
        UserError: no file or not such a file, pictures of several views, or counts that do not fall.

    Source: *ATP-LLaVA: Adaptive Token Pruning for Large Vision Language Models*, arXiv 2412.00447 (CVPR 2025).
    """

    title = "ATP-LLaVA"
    paper = "ATP-LLaVA: Adaptive Token Pruning for Large Vision Language Models"
    arxiv = "2412.00447"
    site = "decoder"
    positions = "keep"
    needs = frozenset({"router"})
    unverified = True
    weights: ClassVar[tuple[Module, ...]] = ()  # of an instance, once `trained`
    differences = (
        "unverified: no code was published; layers, rates, lambda and the modules' widths are those of the file",
        "counts are fixed, and what does not pass is masked; the paper keeps as many tokens as pass",
        "the counts before the last one fall geometrically from N to --keep (ours)",
        "S_self is the mean over queries of the attention that a token receives; the paper's axis is not certain",
        "tokens keep their positions, without the paper's 2-D rotary part, whose details were not published",
    )

    counts: str = ""

    def __post_init__(self) -> None:
        counts("counts", self.counts)

    def trained(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str], shape: Shape) -> AtpLlava:
        """With the modules of a file.

        Raises:
            UserError: the file's layout is not the documented one.
        """
        made = copy.copy(self)
        object.__setattr__(made, "weights", modules(RouterFile(tensors, facts), shape.tokens, shape.decoder_layers))
        return made

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A cut behind each layer that has a module.

        Raises:
            UserError: no weights, pictures of several views, or counts that do not fall.
        """
        if not self.weights:
            raise UserError("--method atp-llava: it needs trained weights: give --aux router=FILE.safetensors")
        if shape.views > 1 or shape.grid.rows * shape.grid.cols != shape.tokens:
            raise UserError(f"--method atp-llava: it samples one grid, and a picture has {shape.views} views here")
        keep, total = budget.count(shape.tokens), shape.tokens
        if keep == total:
            return ()
        if (reads := self.weights[0].reads) not in {2, 2 * total}:
            raise UserError(f"--method atp-llava: its modules read {reads // 2} tokens, and a picture has {total} here")
        left = counts("counts", self.counts) or _falling(total, keep, len(self.weights))
        if len(left) != len(self.weights) or sorted((total, *left), reverse=True) != [total, *left] or left[-1] < 1:
            raise UserError(
                f"--param counts={self.counts}: give {len(self.weights)} counts that fall from {total} at most"
            )
        return tuple(Stage("decoder", each.layer, keep=k) for each, k in zip(self.weights, left, strict=True))

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The k best, those that do not pass masked."""
        assert stage.keep is not None
        layer, grid = stage.layer, taps.shape.grid
        module = next(each for each in self.weights if each.layer == layer)
        every = torch.arange(grid.rows * grid.cols).expand(*taps.span.shape[:2], -1)
        alive = taps.carry.get("alive", torch.ones(taps.span.shape))
        place = taps.carry["place"].round().to(torch.int64) if "place" in taps.carry else every
        scores = mutual(taps, layer, alive), by_text(taps, layer)
        margin = torch.where(alive > 0, margins(module, scores, alive, place, grid), GONE)
        kept = top_k(margin, stage.keep)
        still, before = (gather_rows(margin, kept) > 0).float(), gather_rows(alive, kept)
        passed = (margin > 0).to(torch.int64).sum(-1)
        return Selection(
            indices=kept,
            key_bias=UNSEEN * (before - still),  # once for each token
            carry={"alive": still, "place": gather_rows(place, kept).float()},
            outputs={
                f"tokens.{layer}": passed,
                f"overflow.{layer}": (passed > stage.keep).to(torch.int64),
            },
            scores=margin,
        )


def _falling(total: int, keep: int, stages: int) -> tuple[int, ...]:
    """Counts that fall geometrically to `keep`."""
    return tuple(max(keep, round(total * (keep / total) ** (turn / stages))) for turn in range(1, stages + 1))


METHOD = AtpLlava
