"""DyCoke: of every second frame keep what differs most from the one before; at every step look at some of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.asked import by_last
from exporter.maths.frames import cosine, frames
from exporter.reducer import Reducer, Selection, Shape, Stage, StateSpec, Taps
from exporter.select import marked, ranked, top_k

UNSEEN = -1e4  # an attention logit: finite in fp16, and no weight is left of it
ALIKE = 0.9


@dataclass(frozen=True)
class DyCoke(Reducer):
    """Prune odd frames against the even ones before them, and every fourth frame against the one two before it.

    Stage 1: of frame 2j+1 the k places of the smallest `cos(x[2j,i], x[2j+1,i])` stay; of frame g+2, for g = 0, 4, ...
    below F-4, those of the smallest `cos(x[g,i], x[g+2,i])`; fp32, epsilon 1e-8. All other frames stay whole, except
    that an odd number of frames loses its last one. With P = F // 2 pairs and m such g, `K = L (P - m) + k (P + m)`.
    Budget: tokens of the whole video; k is the largest with which K is no more: K may be up to P + m - 1 less.

    Stage 2, at every generated token: a is the head mean of the newest token's attention over the video in layer
    dycoke_l - 1. Unless `cos(a, a of the step before) >= 0.9`, the layers from dycoke_l on see of the video's K tokens
    only the `int(K (1 - dycoke_p))` of the largest a, in this step. Nothing leaves the cache: the others are masked,
    which gives what the authors' gather gives, without its smaller reads. With all tokens kept there is no stage 2.

    Attributes:
        merging_ratio: k = int((1 - merging_ratio) L) instead of what --keep says; the authors' default is 0.7.
        order: the kept tokens of a pruned frame by their place ("spatial"), or by rising similarity as the authors'
            code has them ("similarity").
        stage2: whether there is a stage 2.
        dycoke_l: as above; in a shallow decoder the last layer.
        dycoke_p: as above.

    Raises:
        ValueError: an unknown order, a ratio outside [0, 1), or dycoke_l less than 1.
        UserError: fewer than five frames, or a budget below the frames that stay whole.

    Source: *DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models*, arXiv 2411.15024.

    """

    title = "DyCoke"
    paper = "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models"
    arxiv = "2411.15024"
    site = "encoder + decoder"
    needs = frozenset({"video"})
    differences = (
        "stage 2 masks what the authors' code does not gather, so it saves nothing; several videos: each by itself",
        "a step whose attention is like that of the one before (cos >= 0.9) sees all, as in the authors' code",
        "tokens of a pruned frame stand in the order of their places; the authors' order is order=similarity",
        "at least one token of every frame stays, except of the last of an odd number",
        "ties go to the lower index, cosines are fp32",
    )

    merging_ratio: float | None = None
    order: str = "spatial"
    stage2: bool = True
    dycoke_l: int = 3
    dycoke_p: float = 0.8

    def __post_init__(self) -> None:
        """Check the parameters."""
        ratio = self.merging_ratio
        if ratio is not None and not (isinstance(ratio, float | int) and 0 <= ratio < 1):
            raise ValueError(f"merging_ratio is a rate of pruning from 0 to below 1, not {ratio}")
        if self.order not in {"spatial", "similarity"}:
            raise ValueError(f"order is spatial or similarity, not {self.order}")
        if not 0 <= self.dycoke_p <= 1:
            raise ValueError(f"dycoke_p is a share from 0 to 1, not {self.dycoke_p}")
        if self.dycoke_l < 1:
            raise ValueError(f"dycoke_l {self.dycoke_l} is less than 1")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut of the whole video, and where the decoder is looked at."""
        keep = self.count(shape, budget)
        return (Stage("projected", keep=keep), *(self.looks(shape) if keep < shape.tokens else ()))

    def count(self, shape: Shape, budget: Budget) -> int:
        """K."""
        if shape.views < 5:
            raise UserError(f"--method dycoke: compares frames four apart and needs 5 or more, not {shape.views}")
        pruned = len(comparisons(shape.views))
        whole = (shape.views // 2 * 2 - pruned) * shape.patches
        if self.merging_ratio is None:
            each = (min(budget.count(shape.tokens), whole + pruned * shape.patches) - whole) // pruned
        else:
            each = int((1 - self.merging_ratio) * shape.patches)
        if each < 1:
            raise UserError(
                f"--method dycoke: of {shape.tokens} tokens {whole} stay whole and {pruned} frames keep one or more: "
                f"give --keep {whole + pruned} or more (merging_ratio: less)"
            )
        return whole + pruned * each

    def looks(self, shape: Shape) -> tuple[Stage, ...]:
        """Behind the layer whose attention decides; there must be one that follows."""
        layer = min(self.dycoke_l - 1, shape.decoder_layers - 2)
        return (Stage("decoder", layer),) if self.stage2 and layer >= 0 else ()

    def steps(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The same place at every token, where a video is not whole; `shape` is that of its rows in the prompt."""
        whole = shape.views > 1 and self.count(shape, budget) == shape.tokens
        return () if whole else self.looks(shape)

    def states(self, shape: Shape, budget: Budget) -> tuple[StateSpec, ...]:
        """Attention of the step before; zeros are like nothing."""
        shown = (shape.images, shape.tokens)
        return (StateSpec("previous", shown),) if self.steps(shape, budget) else ()

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        """Which tokens the layers behind do not see in this step."""
        seen = by_last(taps, stage.layer)
        length = seen.shape[-1]
        stay = int(length * (1 - self.dycoke_p))
        active = marked(top_k(seen, stay), length) if stay else torch.zeros_like(seen)
        new = (cosine(seen, taps.state["previous"]) < ALIKE).float()
        return Selection(key_bias=UNSEEN * (1 - active) * new[..., None], state={"previous": seen})

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The whole frames, and of the others as many tokens as the budget leaves to each; a start for the steps."""
        if stage.stack == "decoder":
            return Selection(state={"previous": torch.zeros(taps.span.shape)})
        assert stage.keep is not None
        views, patches = taps.shape.views, taps.shape.patches
        pruned = [frame for _, frame in comparisons(views)]
        whole = [frame for frame in range(views // 2 * 2) if frame not in pruned]
        each = (stage.keep - len(whole) * patches) // len(pruned)
        chosen = self._least(similarity(frames(taps)), each) + torch.tensor(pruned)[:, None] * patches
        kept = torch.tensor(whole)[:, None] * patches + torch.arange(patches)
        found = torch.cat([kept.flatten().expand(chosen.shape[0], -1), chosen.flatten(1)], 1)
        # where each row stands in time: frames one by one, each with its rows as they are
        time = [frame for frame in whole for _ in range(patches)] + [frame for frame in pruned for _ in range(each)]
        order = sorted(range(len(time)), key=time.__getitem__)
        return Selection(indices=found[:, torch.tensor(order)][:, None])

    def _least(self, alike: Tensor, each: int) -> Tensor:
        """`[B,R,each]`: places of the smallest similarities of `[B,R,L]`."""
        return top_k(-alike, each) if self.order == "spatial" else ranked(-alike, each)


def comparisons(views: int) -> list[tuple[int, int]]:
    """(frame to compare with, frame that is pruned): odd frames, then those in the middle of groups of four."""
    return [(f, f + 1) for f in range(0, views - 1, 2)] + [(g, g + 2) for g in range(0, views - 4, 4)]


def similarity(video: Tensor) -> Tensor:
    """`[B,R,L]` fp32: cosines of the pruned frames of `[B,F,L,D]` with the ones they are compared with."""
    pairs = torch.tensor(comparisons(video.shape[1]))
    return cosine(video[:, pairs[:, 0]], video[:, pairs[:, 1]])


METHOD = DyCoke
