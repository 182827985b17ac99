"""Vectors of VisionZip: [CLS] row, head means of the keys and hidden states of one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.visionzip import VisionZip
from exporter.reducer import QKV, Grid, Shape
from exporter.select import ranked
from exporter.sequence import Sequence, cut
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Dominant tokens by score, [CLS] in front and counted, and the rows that come out."""
    batch, length, _ = case["hidden_sel"].shape
    patches = length - 1
    shape = Shape(patches, Grid(1, patches))
    dominant, contextual = int(case["dominant_incl_cls"]), int(case["contextual"])
    reducer = VisionZip(dominant=dominant, contextual=contextual)
    (stage,) = reducer.plan(shape, Budget(str(dominant + contextual)))

    def run(rows: Tensor, metric: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        keys = metric[:, None]
        seen = {0: Seen(attention=rows[:, :, None], qkv={False: QKV(keys, keys, keys)})}
        chosen = reducer.select(EagerTaps((1,), patches, length, seen, shape, batch=batch), stage)
        assert chosen.scores is not None
        whole = Sequence(hidden, 1, patches, torch.arange(patches).expand(batch, 1, -1))
        best = ranked(chosen.scores[:, 0], dominant - 1) + 1
        return {
            "dominant_indices_unsorted_incl_cls": torch.cat([torch.zeros_like(best[:, :1]), best], 1),
            "out_features": cut(whole, stage, chosen, renumber=True).hidden,
        }

    inputs = [torch.from_numpy(case[name]) for name in ("attn_cls_row", "metric", "hidden_sel")]
    want = {name: case[name] for name in ("dominant_indices_unsorted_incl_cls", "out_features")}
    yield Check(f"{dominant} + {contextual}", run, inputs, want)
