"""VidCom2: drop what is typical of its frame and of the video, from typical frames more than from others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.frames import frames
from exporter.maths.slots import packed
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import marked, ranks, top_k

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the Gaussians
TEMPERATURE = 0.01
LATER = 2.0**10  # exact in fp32, and far above the ratio of any two scores: 0.6 to 10


@dataclass(frozen=True)
class VidCom2(Reducer):
    """Frames share the budget by how far they stand from the video, tokens stay by how far from frame and video.

    The `floor(C/2)` channels of least variance, each token of unit length: y. Their means are the centres c of the
    video and c_f of a frame. `G(d) = sum_a exp(-d / 2a)` for a of 1/8 to 2; `V = G(|y - c|^2)`, `U = G(|y - c_f|^2)`.
    Frame f keeps `k_f = max(1, round(L min(1, r (1 + p_f - 1/F))))` tokens of the lowest `V + U` (fp32), p the softmax
    over frames of `-mean_i V / 0.01`. Where a token has a place in time, row and column it keeps that;
    one-dimensional positions are numbered anew. Budget: tokens of the whole video, one a frame or more.

    Attributes:
        mode: "vllm": exactly the budget; what rounding leaves over or lacks comes from the lowest V + U of the whole
            video. "official": what the frames' counts add up to, in slots for that and one more a frame.
        r_ratio: the authors' R_RATIO (0.25), the rate r; by default what --keep says.

    Raises:
        ValueError: an unknown mode or a rate outside (0, 1].

    Source: *Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models*, arXiv
    2505.14454.

    """

    title = "VidCom2"
    paper = "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models"
    arxiv = "2505.14454"
    needs = frozenset({"video"})
    differences = (
        "by default the count is exact, as in vLLM, and a frame may lose all its tokens; mode=official is the paper's",
        "newline tokens, which LLaVA-Video's code keeps on top of the budget, are not part of a video here",
        "ties go to the lower index, scores are fp32",
    )

    mode: str = "vllm"
    r_ratio: float | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.mode not in {"vllm", "official"}:
            raise ValueError(f"mode is vllm or official, not {self.mode}")
        if self.r_ratio is not None and not (isinstance(self.r_ratio, float | int) and 0 < self.r_ratio <= 1):
            raise ValueError(f"r_ratio is a rate above 0 up to 1, not {self.r_ratio}")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut of the whole video; the official count is not known before, so it gets slots."""
        tokens = shape.tokens
        count = budget.count(tokens) if self.r_ratio is None else int(tokens * self.r_ratio)
        if self.mode == "official":
            return (Stage("projected", keep=count + shape.views, blanks=True),)
        return (Stage("projected", keep=max(shape.views, count)),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The tokens within their frames' counts, made up to the budget or not."""
        assert stage.keep is not None
        near_video, near_frame = typical(frames(taps))
        scores = near_video + near_frame
        inside = ranks(-scores) < counts(near_video, self._rate(taps.shape, stage.keep))[..., None]
        if self.mode == "official":
            return Selection(indices=packed(inside.flatten(1)[:, None], stage.keep))
        order = torch.where(inside, scores, scores * LATER).flatten(1)[:, None]
        return Selection(indices=top_k(-order, stage.keep), scores=-order)

    def _rate(self, shape: Shape, keep: int) -> float:
        if self.r_ratio is not None:
            return self.r_ratio
        return (keep - shape.views if self.mode == "official" else keep) / shape.tokens


def calm_channels(video: Tensor) -> Tensor:
    """`[B,C//2]` int64: the channels of `[B,F,L,C]` whose variance over all tokens is the least, ascending."""
    return top_k(-video.flatten(1, 2).var(1, unbiased=False), video.shape[-1] // 2)


def typical(video: Tensor) -> tuple[Tensor, Tensor]:
    """V and U, `[B,F,L]` each, of rows `[B,F,L,C]`: how near a token is to the video's centre and to its frame's."""
    mask = marked(calm_channels(video), video.shape[-1])[:, None, None]
    rows = torch.nn.functional.normalize(video * mask, dim=-1, eps=1e-12)
    return _near(rows, rows.mean((1, 2), keepdim=True)), _near(rows, rows.mean(2, keepdim=True))


def _near(rows: Tensor, centre: Tensor) -> Tensor:
    distance = (rows - centre).square().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * width)) for width in WIDTHS]).sum(0)


def scales(near_video: Tensor, rate: float) -> Tensor:
    """`[B,F]`: the part of its tokens that each frame keeps."""
    share = (-near_video.mean(-1) / TEMPERATURE).softmax(-1)
    return (rate * (1 + share - 1 / share.shape[-1])).clamp(max=1)


def counts(near_video: Tensor, rate: float) -> Tensor:
    """`[B,F]` fp32 whole numbers: tokens that each frame keeps, at least one, halves to even."""
    return (scales(near_video, rate) * near_video.shape[-1]).round().clamp(min=1)


METHOD = VidCom2
