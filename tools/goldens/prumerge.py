"""Vectors of PruMerge and PruMerge+: queries and keys of the last layer, hidden states of the one before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.prumerge import PruMerge
from exporter.methods.prumerge_plus import PruMergePlus
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.sequence import Sequence, cut
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Kept indices in the order in which they come, and the merged rows; PruMerge+ with and without blank slots."""
    kept, neighbours, patches = int(case["num_out"]) - 1, int(case["knn"]), case["hidden_sel"].shape[1] - 1
    if str(case["variant"]) == "prumerge":
        yield _check(case, "fixed number", PruMerge(neighbours=neighbours), kept)
        return
    stride, top = int(1 / float(case["iqr_ratio"])) // 3, int(case["num_topk"])
    slots = min(patches, top + len(range(0, patches - 1, stride)))
    yield _check(case, "as published, then blanks", PruMergePlus(neighbours, stride, top), slots)


def _check(case: Arrays, what: str, reducer: PruMerge, slots: int) -> Check:
    batch, length, _ = case["hidden_sel"].shape
    patches, kept = length - 1, int(case["num_out"]) - 1
    shape = Shape(patches, Grid(1, patches), tower_layers=2)
    stage = Stage("tower", 0, keep=slots, extra=1, blanks=True)

    def run(q: Tensor, k: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        seen = {1: Seen(qkv={False: QKV(q[:, None], k[:, None], k[:, None])})}
        chosen = reducer.select(EagerTaps((1,), patches, length, seen, shape, batch=batch), stage)
        assert chosen.indices is not None
        whole = Sequence(hidden, 1, patches, torch.arange(patches).expand(batch, 1, -1))
        rows = cut(whole, stage, chosen, renumber=True).hidden[:, 1:]
        return {
            "kept_indices": chosen.indices[:, 0, :kept],
            "out_features": torch.cat([rows[:, :kept], rows[:, -1:]], 1),
            "blanks": (chosen.indices == -2).sum(),
        }

    want = {name: case[name] for name in ("kept_indices", "out_features")}
    want["blanks"] = torch.tensor(batch * (slots - kept)).numpy()
    inputs = [torch.from_numpy(case[name]) for name in ("q_last", "k_last", "hidden_sel")]
    return Check(what, run, inputs, want)
