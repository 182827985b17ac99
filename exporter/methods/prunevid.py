"""PruneVid: what stands still in a scene becomes one frame, every frame a few means, of which the text picks some."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.cluster import ABSENT, members, prominence
from exporter.maths.density import distances
from exporter.maths.depths import at_depth
from exporter.maths.frames import frames
from exporter.maths.patchwork import Patches, patchwork
from exporter.maths.scenes import agreement, contiguous, scenes
from exporter.maths.shares import Group, Pick, best, sizes
from exporter.maths.slots import EMPTY
from exporter.maths.windows import Split, Windows, blend, constant, found, inside, split, together
from exporter.maths.words import loudest
from exporter.reducer import Positions, Reducer, Selection, Shape, Stage, Taps
from exporter.select import ranked

FEW = 14  # so many rows stay as they are
LAYERS, DEPTH = (10,), 32  # behind which the text picks


@dataclass(frozen=True)
class PruneVid(Reducer):
    """Still places of a window are merged over it, then these rows and each frame's others become clusters' means.

    A place is still where the mean cosine of all pairs of the window's frames is high; its row is the mean over the
    window. Of n rows c are centres: the largest `delta rho` (`cluster.prominence`, k neighbours); each row
    joins the nearest, and the mean of each cluster stays, the highest peak first. All fp32. Rows stand window by
    window, still ones first, then frame by frame; each has the place of its centre, in the window's first frame where
    it was still. They are numbered anew. In the decoder the text picks: behind layer `selected_layer` the part alpha of
    a window's still rows stays, and of each frame's others, `int(alpha n)` of n: the largest `max over heads and text
    rows behind the video of A`. The caches of the layers up to there are cut likewise; positions stay. Budget: tokens
    of the whole video that reach the decoder; with all of them nothing is cut there either.

    Attributes:
        mode: "fixed": windows of 1 / temporal_segment_ratio frames whose `still` share of most alike places is still;
            all groups of rows keep the same part, together exactly the budget. "exact": scenes, the places above tau,
            and the part cluster_ratio of every group of more than 14 rows, whatever --keep says; slots for the most
            that can be, of which the last may be empty.
        tau: the mean cosine above which a place is still (exact).
        cluster_ratio: as above (exact).
        temporal_segment_ratio: clusters of frames, as a part of the frames (exact), see `exporter.maths.scenes`.
        k: neighbours, of frames too.
        still: see mode (fixed).
        llm: whether the text picks, in mode fixed; where `int(alpha n)` leaves nothing at all it does not.
        alpha: as above.
        selected_layer: as above, 0-based; by default 10 of 32, or at the same share of the depth.

    Raises:
        ValueError: an unknown mode or a parameter out of its range.
        UserError: mode=exact and fewer than k frames, or no cluster of them.

    Source: *PruneVid: Visual Token Pruning for Efficient Video Large Language Models*, arXiv 2412.16117.

    """

    title = "PruneVid"
    paper = "PruneVid: Visual Token Pruning for Efficient Video Large Language Models"
    arxiv = "2412.16117"
    site = "encoder + decoder"
    positions = "keep"
    needs = frozenset({"video"})
    differences = (
        "by default windows, still places and counts are constants (ours); mode=exact finds them as the paper does",
        "mode=exact leaves the text's pick out, whose groups only the data would know; alpha is LightCompress' 0.4",
        "several videos: each is picked from by the text behind it, rows of other videos left out",
        "groups of one frame or few rows: as many neighbours as there are (fixed)",
        "no random noise on densities; ties go to the lower index",
    )

    mode: str = "fixed"
    tau: float = 0.8
    cluster_ratio: float = 0.5
    temporal_segment_ratio: float = 0.25
    k: int = 7
    still: float = 0.5
    llm: bool = True
    alpha: float = 0.4
    selected_layer: int | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.mode not in {"fixed", "exact"}:
            raise ValueError(f"mode is fixed or exact, not {self.mode}")
        for name in ("cluster_ratio", "temporal_segment_ratio", "alpha"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share above 0 up to 1, not {getattr(self, name)}")
        if not 0 <= self.still <= 1:
            raise ValueError(f"still is a share from 0 to 1, not {self.still}")
        if self.k < 1:
            raise ValueError(f"k {self.k} is less than 1")
        layer = self.selected_layer
        if layer is not None and (not isinstance(layer, int) or layer < 0):
            raise ValueError(f"selected_layer {layer} is no number of a layer")

    @property
    def entry(self) -> Positions:
        """Rows of a video follow each other; the decoder's cut leaves them their numbers."""
        return "renumber"

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut of the whole video, and one in the decoder."""
        if self.mode == "fixed":
            keep = budget.count(shape.tokens)
            return (Stage("projected", keep=keep), *(self.picks(shape, keep) if keep < shape.tokens else ()))
        if shape.views < self.k:
            raise UserError(f"--method prunevid: mode=exact needs {self.k} or more frames (k), not {shape.views}")
        if int(shape.views * self.temporal_segment_ratio) < 1:
            raise UserError(f"--method prunevid: no cluster for {shape.views} frames; give more temporal_segment_ratio")
        return (Stage("projected", keep=self.most(shape), blanks=True),)

    def picks(self, shape: Shape, keep: int) -> tuple[Stage, ...]:
        """The cut in the decoder and that of the caches behind it, where they leave some of `keep` rows."""
        groups = tuple(map(self.quota, sizes(self.split(shape, keep))))
        left = sum(stay for _, stay in groups)
        if not self.llm or left in {0, keep}:
            return ()
        (layer,) = at_depth(LAYERS, DEPTH, shape.decoder_layers) or LAYERS
        layer = layer if self.selected_layer is None else self.selected_layer
        return Pick("decoder", layer, keep=left, groups=groups), Stage("decoder", layer, at="kv", since=0)

    def quota(self, rows: int) -> Group:
        """How many of a group's rows the text picks."""
        return rows, int(rows * self.alpha)

    def split(self, shape: Shape, keep: int) -> Split:
        """Windows and counts that are constant (fixed)."""
        return split(shape, round(1 / self.temporal_segment_ratio), self.still, keep)

    def clusters(self, rows: int) -> int:
        """Clusters of a group of rows (exact)."""
        return rows if rows <= FEW else int(rows * self.cluster_ratio)

    def most(self, shape: Shape) -> int:
        """The most rows that a video can leave, over all windows and still places."""
        patches, best = shape.patches, [0]
        places = range(patches + 1)
        sizes = range(2, shape.views + 1)
        windows = [max(self.clusters(n) + size * self.clusters(patches - n) for n in places) for size in sizes]
        windows.insert(0, self.clusters(patches))
        for frame in range(shape.views):
            best.append(max(best[frame - size] + windows[size] for size in range(frame + 1)))
        return best[-1]

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The means of clusters, of still places and of each frame; or those that the text looks at."""
        if isinstance(stage, Pick):
            scores = loudest(taps, stage.layer)
            return Selection(indices=best(scores, stage.groups), scores=scores)
        assert stage.keep is not None
        video, views = frames(taps), taps.shape.views
        windows, merged, single = self.layout(video, stage.keep, taps.shape)
        means = blend(windows.reach, video)
        each = torch.eye(views).expand(video.shape[0], -1, -1)
        still = Patches(windows.heads, windows.reach, *self.clustered(means, windows.still, merged))
        moving = Patches(list(range(views)), each, *self.clustered(video, windows.moving, single))
        return patchwork(still, moving, stage.keep)

    def layout(self, video: Tensor, keep: int, shape: Shape) -> tuple[Windows, Tensor, Tensor]:
        """Windows, and how many rows `[B,H]` and `[B,F]` int64 their still places and each frame leave."""
        share = self.temporal_segment_ratio
        if self.mode == "fixed":
            fixed = self.split(shape, keep)
            windows = constant(fixed.sizes, agreement(video, inside(fixed.sizes)), fixed.still)
            return windows, torch.tensor([fixed.merged]), torch.tensor([fixed.single])
        labels = contiguous(scenes(video.mean(2), int(shape.views * share), self.k))
        same = together(labels[:, 1:] != labels[:, :-1])
        windows = found(same, agreement(video, same.float()) > self.tau)
        left = torch.tensor([self.clusters(rows) for rows in range(shape.patches + 1)])
        return windows, left[windows.still.sum(-1)], left[windows.moving.sum(-1)]

    def clustered(self, rows: Tensor, active: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """What each row mixes `[B,G,M,L]` and its centre `[B,G,M]` int64, of rows `[B,G,L,D]`; `counts` `[B,G]`.

        A group whose rows all stay keeps their order.
        """
        squares, length = distances(rows), rows.shape[2]
        whole = (counts == active.sum(-1)).unsqueeze(-1)
        score = torch.where(whole, length - torch.arange(length).float(), prominence(squares, active, self.k))
        order = ranked(torch.where(active, score, ABSENT), length)
        centres = torch.where(torch.arange(length) < counts.unsqueeze(-1), order, EMPTY)
        joined = members(squares, active, centres)
        return joined / joined.sum(-1, keepdim=True).clamp(min=1), centres


METHOD = PruneVid
