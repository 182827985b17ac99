"""Vectors of DART: the authors' and LightCompress' selection in a decoder layer, TensorRT-Edge-LLM's on embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.dart import DART
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.select import ranked
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Kept tokens of each layer form in both orders of the pivots; growth order and kept tokens of every span."""
    reducer = DART(pivot_image=int(case["pivot_image"]), pivot_text=int(case["pivot_text"]))
    yield _layer(case, replace(reducer, form="layer"))
    yield _embed(case, reducer)


def _layer(case: Arrays, reducer: DART) -> Check:
    start, length, count = int(case["image_start"]), int(case["image_len"]), reducer.pivots
    shares = {
        "kept_indices": int(case["max_tokens"]) // count,
        "kept_indices_lightcompress": int(length * (1 - float(case["reduction_ratio"])) / count),
    }

    def run(states: Tensor, keys: Tensor) -> Mapping[str, Tensor]:
        seen = {1: Seen({"out": states[None]}, qkv={True: QKV(keys[None], keys[None], keys[None])})}
        shape = Shape(length, Grid(1, length))
        taps = EagerTaps((start,), length, len(states), seen, shape, norm=lambda x: x)  # it is behind the norm
        found = {}
        for name, share in shares.items():
            stage = Stage("decoder", 1, keep=reducer.pivot_image + count * share)
            for order, suffix in (("strength", ""), ("cpython", "_cpython")):
                kept = replace(reducer, order=order).select(taps, stage).indices
                assert kept is not None
                found[name + suffix] = kept[0, 0] + start
        return found

    arrays = (torch.from_numpy(case["normed_hidden"]), torch.from_numpy(case["key_states"]))
    return Check("layer", run, arrays, {name: case[name] for key in shares for name in (key, f"{key}_cpython")})


def _embed(case: Arrays, reducer: DART) -> Check:
    text = torch.from_numpy(case["edge_is_image"] == 0).nonzero()[:, 0]
    spans, width = case["edge_spans"].tolist(), case["edge_pivots"].shape[1]

    def run(states: Tensor) -> Mapping[str, Tensor]:
        inputs = {"text": states[text][None], "text_mask": torch.ones(1, len(text), dtype=torch.bool)}
        order, kept, pivots = [], [], []
        for begin, end, keep in spans:
            shape = Shape(end - begin, Grid(1, end - begin))
            rows = states[None, begin:end]
            taps = EagerTaps((0,), end - begin, end - begin, {-1: Seen({"out": rows})}, shape, inputs=inputs)
            grown = reducer.embed(taps, keep)[0, 0] + begin
            chosen = reducer.select(taps, reducer.plan(shape, Budget(str(keep)))[0]).indices
            assert chosen is not None
            words = text[ranked(states[text].abs().sum(-1), reducer.pivot_text)]
            used = torch.cat([grown[: min(reducer.pivot_image, keep)], words])
            pivots.append(torch.nn.functional.pad(used, (0, width - len(used)), value=-1))
            order.append(grown)
            kept.append(chosen[0, 0] + begin)
        return {
            "edge_pivots": torch.stack(pivots),
            "edge_kept_order": torch.cat(order),
            "edge_kept_indices": torch.cat(kept),
        }

    names = ("edge_pivots", "edge_kept_order", "edge_kept_indices")
    return Check("embed", run, (torch.from_numpy(case["normed_hidden"]),), {name: case[name] for name in names})
