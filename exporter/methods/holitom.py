"""HoliTom: places that stand still over windows of frames merge in time, then in space; of the others some stay."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.asked import by_last
from exporter.maths.depths import at_depth
from exporter.maths.folding import fold
from exporter.maths.frames import cosine, frames
from exporter.maths.patchwork import patchwork
from exporter.maths.window_rows import merged, salient
from exporter.maths.window_search import best_windows, held, steadiness, stillness
from exporter.maths.windows import Windows, constant, found, quotas, split
from exporter.reducer import Positions, Reducer, Selection, Shape, Stage, Taps
from exporter.scores import received, scored_layer
from exporter.select import top_k

LAYERS, DEPTH = (17,), 28  # behind which the decoder merges


@dataclass(frozen=True)
class HoliTom(Reducer):
    """Still places of a window become one row each and merge around density peaks; moving tokens stay by attention.

    A place is still where all cosines of neighbouring frames in its window are high; its row is the mean over the
    window. Of n still rows c are centres: the largest `delta rho` (`exporter.maths.cluster.prominence`, min(k, c)
    neighbours); every other one joins the nearest, and a centre becomes `beta centre + (1 - beta) mean(joined)`. Of a
    frame's moving tokens those stay that receive the most attention (mean over heads and queries of the last tower
    layer used). All fp32. Rows stand window by window, still ones first, then frame by frame, each by place; a merged
    row has the place of its centre in the window's first frame. They are numbered anew. In the decoder the part
    holitom_r of them, those that the last query attends to least behind layer holitom_k - 1, fold into the most alike
    others (`exporter.maths.folding`), which keep their positions. Budget: tokens of the video that reach the decoder;
    with all of them nothing is merged there either.

    Attributes:
        mode: "fixed": windows of `window` frames whose `still` share of most alike places is still; all groups of rows
            keep the same part, together exactly the budget. "exact": the windows that save most, with the places above
            tau; of T tokens not merged in time the part R' = min(1, budget / T) stays, ceil(n R') of a frame's moving
            ones, round(n R') of a window's still ones. The last of the budget + 5 F / 4 slots may be empty.
        retain_ratio: the budget as a part of all tokens instead of what --keep says; the authors' default is 0.1.
        tau: the cosine above which a place is still (exact); the authors take 0.65 at a retain_ratio of 0.1.
        beta, k: as above.
        max_window: frames of a window at most (exact).
        window, still: see mode (fixed).
        inner: whether the decoder merges, in mode fixed; the authors' "w/o M" is inner=false.
        holitom_k: by default 18 of 28 layers, or at the same share of the depth.
        holitom_r: as above.

    Raises:
        ValueError: an unknown mode or a parameter out of its range.

    Source: *HoliTom: Holistic Token Merging for Fast Video Large Language Models*, arXiv 2505.21334.

    """

    title = "HoliTom"
    paper = "HoliTom: Holistic Token Merging for Fast Video Large Language Models"
    arxiv = "2505.21334"
    site = "encoder + decoder"
    positions = "keep"
    needs = frozenset({"video"})
    differences = (
        "by default windows, still places and counts are constants (ours); mode=exact finds them as the paper does",
        "moving tokens are never merged: in the authors' code that share (D) can only be 0",
        "counts are exact fractions: the authors' floats may round up where a product is a whole number",
        "each video has its own ratio; the authors' code goes on with the last video's",
        "no random noise on densities; ties go to the lower index",
        "newline tokens, which LLaVA-Video's code adds on top of the budget, are not part of a video here",
        "mode=exact leaves the merge in the decoder out, where each video would have another count",
    )

    mode: str = "fixed"
    retain_ratio: float | None = None
    tau: float = 0.8
    beta: float = 0.6
    k: int = 7
    max_window: int = 1024
    window: int = 4
    still: float = 0.5
    inner: bool = True
    holitom_k: int | None = None
    holitom_r: float = 0.5

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.mode not in {"fixed", "exact"}:
            raise ValueError(f"mode is fixed or exact, not {self.mode}")
        ratio = self.retain_ratio
        if ratio is not None and not (isinstance(ratio, float | int) and 0 < ratio <= 1):
            raise ValueError(f"retain_ratio is a share above 0 up to 1, not {ratio}")
        for name in ("beta", "still", "holitom_r"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        depth = 1 if self.holitom_k is None else self.holitom_k
        for name, value in (*((n, getattr(self, n)) for n in ("k", "max_window", "window")), ("holitom_k", depth)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} {value} is less than 1")

    @property
    def entry(self) -> Positions:
        """Rows of a video follow each other; the decoder's cut leaves them their numbers."""
        return "renumber"

    def asked(self, shape: Shape, count: int) -> Fraction:
        """The budget, of which --keep says `count`."""
        return Fraction(count) if self.retain_ratio is None else Fraction(str(self.retain_ratio)) * shape.tokens

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look at the tower's attention, one cut of the whole video, and one in the decoder."""
        if shape.views < 2:
            raise UserError("--method holitom: compares neighbouring frames and needs 2 or more, not 1")
        look, asked = Stage("tower", shape.tower_last), self.asked(shape, budget.count(shape.tokens))
        if self.mode == "exact":
            return look, Stage("projected", keep=int(asked + Fraction(5 * shape.views, 4)), blanks=True)
        keep = max(1, int(asked))
        return look, Stage("projected", keep=keep), *(self.merges(shape, keep) if keep < shape.tokens else ())

    def merges(self, shape: Shape, keep: int) -> tuple[Stage, ...]:
        """The cut in the decoder, where it leaves fewer than `keep`."""
        left = max(1, round(keep * (1 - self.holitom_r)))
        if not self.inner or left == keep:
            return ()
        (layer,) = at_depth(LAYERS, DEPTH, shape.decoder_layers) or LAYERS
        return (Stage("decoder", layer if self.holitom_k is None else self.holitom_k - 1, keep=left),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Attention, carried from the tower; behind the projector the merged and the kept rows."""
        if stage.stack == "tower":
            return Selection(carry={"attention": received(taps, scored_layer(taps.shape, stage.layer))})
        assert stage.keep is not None
        if stage.stack == "decoder":
            scores = by_last(taps, stage.layer)
            rows = taps.span_of(taps.hidden(stage.layer).transpose(1, 2)).transpose(2, 3)
            kept = top_k(scores, stage.keep)
            return Selection(indices=kept, mix=fold(rows, kept), mix_rows=tuple(range(stage.keep)), scores=scores)
        video = frames(taps)
        windows, still, moving = self.layout(video, stage.keep, taps.shape)
        attention = taps.carry["attention"].reshape(video.shape[:3])
        return patchwork(
            merged(video, windows, still, self.k, self.beta), salient(attention, windows, moving), stage.keep
        )

    def layout(self, video: Tensor, keep: int, shape: Shape) -> tuple[Windows, Tensor, Tensor]:
        """Windows, and how many rows `[B,H]` and `[B,F]` int64 their still places and each frame leave."""
        alike = cosine(video[:, 1:], video[:, :-1])
        if self.mode == "exact":
            still = stillness(alike, self.tau)
            together = best_windows(still, self.max_window)
            windows = found(together, held(together, alike > self.tau))
            return windows, *quotas(windows, self.asked(shape, keep - 5 * shape.views // 4))
        fixed = split(shape, self.window, self.still, keep)
        windows = constant(fixed.sizes, steadiness(alike, fixed.sizes), fixed.still)
        return windows, torch.tensor([fixed.merged]), torch.tensor([fixed.single])


METHOD = HoliTom
