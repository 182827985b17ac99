"""Vectors of FastVID: the rows of a video between text, its frames' features and attention, and all parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.absorb import NEIGHBOURS
from exporter.maths.density import peaks
from exporter.maths.frames import cosine
from exporter.maths.segments import anchors, dynamic
from exporter.methods.fastvid import FastVID
from exporter.reducer import Taps
from exporter.select import gather_rows, top_k
from tools.golden import Arrays, Check
from tools.goldens.video import video_taps


@dataclass(frozen=True)
class Recorded(FastVID):
    """With the recorded features of frames in place of the method's own."""

    def features(self, taps: Taps) -> Tensor:
        return taps.inputs["frames"]


def checks(case: Arrays) -> Iterator[Check]:
    """Segments and quotas; salient tokens and densities; the whole sequence behind the cut."""
    method = Recorded(
        mode="exact",
        retention_ratio=float(case["retention_ratio"]),
        dyseg_c=int(case["DySeg_c"]),
        dyseg_tau=float(case["DySeg_tau"]),
        stprune_d=float(case["STPrune_d"]),
        dtm_p=int(case["DTM_p"]),
        dtm_alpha=float(case["DTM_alpha"]),
    )
    video, features, attention = (
        torch.from_numpy(case[name]) for name in ("video_hidden", "frame_global_features", "frame_attn")
    )
    views, patches, _ = video.shape
    context, salient = method.shares(int(patches * float(case["retention_ratio"])), patches)

    def segments(features: Tensor) -> Mapping[str, Tensor]:
        together = dynamic(features[None], method.dyseg_c, method.dyseg_tau)
        first = together.to(torch.int64).argmax(-1)[0] == torch.arange(views)
        quota = anchors(together, list(range(views)), method.dtm_p, context).quota[0]
        return {
            "frame_similarity": cosine(features[:-1], features[1:]),
            "sizes": together[0].sum(-1) * first,  # at the first frame of each segment
            "context_per_frame": quota,
        }

    starts, sizes = case["segment_sizes"].cumsum() - case["segment_sizes"], torch.zeros(views, dtype=torch.int64)
    sizes[torch.from_numpy(starts)] = torch.from_numpy(case["segment_sizes"])
    wanted = {name: case[name] for name in ("frame_similarity", "context_per_frame")} | {"sizes": sizes.numpy()}
    yield Check("segments", segments, (features,), wanted)

    def tokens(video: Tensor, attention: Tensor) -> Mapping[str, Tensor]:
        found = top_k(attention, salient)
        free = torch.ones_like(attention).scatter(1, found, 0.0)
        rows = gather_rows(video, top_k(free, patches - salient))
        return {"salient_indices": found, "density_score": peaks(rows, NEIGHBOURS)}

    names = ("salient_indices", "density_score")
    yield Check("tokens", tokens, (video, attention), {name: case[name] for name in names})
    yield whole(case, method, (video, features, attention))


def whole(case: Arrays, method: FastVID, inputs: tuple[Tensor, Tensor, Tensor]) -> Check:
    """The prefix, what is left of the video, the suffix; slots that stay empty are behind them."""
    prefix, suffix = torch.from_numpy(case["prefix"]), torch.from_numpy(case["suffix"])
    tokens, found = inputs[0].shape[0] * inputs[0].shape[1], len(case["kept_indices"]) - len(prefix) - len(suffix)

    def run(video: Tensor, features: Tensor, attention: Tensor) -> Mapping[str, Tensor]:
        carry = {"attention": attention.flatten()[None, None]}
        taps = video_taps(video[None], carry=carry, inputs={"frames": features[None]})
        *_, stage = method.plan(taps.shape, Budget("1"))
        chosen = method.select(taps, stage)
        assert chosen.indices is not None
        kept, rows = chosen.indices[0, 0], video.flatten(0, 1)
        rows = gather_rows(rows, kept.clamp(min=0)) if chosen.mix is None else chosen.mix[0, 0] @ rows
        behind = torch.arange(len(suffix)) + len(prefix) + tokens
        return {
            "kept_indices": torch.cat([torch.arange(len(prefix)), kept[:found] + len(prefix), behind]),
            "hidden_out": torch.cat([prefix, rows[:found], suffix]),
            "filled": (kept >= 0).sum(0, keepdim=True),
        }

    wanted = {name: case[name] for name in ("kept_indices", "hidden_out")}
    return Check("sequence", run, inputs, wanted | {"filled": torch.tensor([found]).numpy()})
