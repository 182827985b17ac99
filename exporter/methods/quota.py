"""QuoTA: frames that a scorer finds to bear on the question get more tokens, the others few or none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.frame_sizes import averaged, bilinear, capped, counts, grids, shares, spacings
from exporter.maths.slots import EMPTY
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps

VERSIONS = ("v1", "v2", "v3")


@dataclass(frozen=True)
class QuoTA(Reducer):
    """Resize each frame to `c = int(total w)` tokens, w its share of all squared scores.

    `w_f = (100 s_f)^2 / sum`, s_f the probability with which a scorer says that frame f bears on the question (input
    `frame_scores [B,F]`). Versions: v1 resizes a frame's grid to h x w, the nearly square one of at most c tokens, by
    bilinear interpolation (it may grow); v2 by adaptive average pooling, and no frame gets more than it has, the excess
    going to others; v3 takes c of its tokens at equal distances, with the same cap. Frames of c = 0 go. Rows stand
    frame by frame and are numbered anew; a row has the place of the token nearest to it. How many there are only the
    scores know: behind them slots stay empty. Budget: `total`, tokens of the whole video.

    Attributes:
        version: v1, v2 or v3.

    Raises:
        ValueError: another version; the authors' code fails in v4 and v5.

    Source: *QuoTA: Query-oriented Token Assignment via CoT Query Decouple for Long Video Comprehension*,
    arXiv 2503.08689.
    """

    title = "QuoTA"
    paper = "QuoTA: Query-oriented Token Assignment via CoT Query Decouple for Long Video Comprehension"
    arxiv = "2503.08689"
    needs = frozenset({"video", "frame_scores"})
    differences = (
        "the scorer is any exported bundle (tp-export run --scorer), asked for enough to answer; no chain of thought",
        "no newline tokens after the rows of a frame, which the authors add on top of the budget",
        "shares are fp32, the authors' float64: where total * w is a whole number to 7 digits, by one token",
        "frames are those that the model takes, not 96 and more by the length of the video",
    )

    version: str = "v1"

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(f"version {self.version}: choose from {', '.join(VERSIONS)}")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut behind the projector, into slots."""
        if self.version != "v3" and shape.grid.rows != shape.grid.cols:
            raise UserError(f"--method quota: version {self.version} needs square frames, not {shape.grid}; take v3")
        if self.version == "v3":
            spacings(shape.patches)  # not while it is traced
        return (Stage("projected", keep=budget.count(shape.tokens), blanks=True),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The resized frames, one behind the other."""
        assert stage.keep is not None
        shape, weights = taps.shape, shares(taps.inputs["frame_scores"])
        if self.version != "v1":
            weights = capped(weights, shape.patches / stage.keep)
        return assign(counts(weights, stage.keep), stage.keep, shape, self.version)


def assign(count: Tensor, slots: int, shape: Shape, version: str) -> Selection:
    """Slots `[B,1,slots]` of frames with `count` `[B,F]` tokens each."""
    side, patches = shape.grid.cols, shape.patches
    rows, cols = (count.clamp(max=patches), torch.ones_like(count)) if version == "v3" else grids(count)
    ends = (rows * cols).cumsum(-1)
    place = torch.arange(slots)
    frame = (place[:, None] >= ends[:, None]).to(torch.int64).sum(-1)  # [B,slots]; F: an empty slot
    own = frame.clamp(max=shape.views - 1)
    height, width, end = (values.gather(1, own) for values in (rows, cols, ends))
    local = (place - (end - height * width)).clamp(min=0)
    there = (frame < shape.views)[..., None]
    if version == "v3":
        table = torch.tensor(spacings(patches)).flatten()
        within = (table[height * patches + local.clamp(max=patches - 1)][..., None] == torch.arange(patches)) * 1.0
    else:
        down, right = torch.div(local, width.clamp(min=1), rounding_mode="floor"), local % width.clamp(min=1)
        resized = bilinear if version == "v1" else averaged
        along = resized(down, height.clamp(min=1), side)
        within = (along[..., None] * resized(right, width.clamp(min=1), side)[..., None, :]).flatten(2)
    which = (own[..., None] == torch.arange(shape.views)) * there
    mix = (which[..., None] * within[..., None, :]).flatten(2)
    nearest = torch.where(there[..., 0], own * patches + within.argmax(-1), EMPTY)
    return Selection(nearest[:, None], mix[:, None], tuple(range(slots)))


METHOD = QuoTA
