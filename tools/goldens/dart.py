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
    embed = DART(pivot_image=int(case["pivot_image"]), pivot_text=int(case["pivot_text"]))
    count, length = embed.pivots, int(case["image_len"])
    by_ratio = int(length * (1 - float(case["reduction_ratio"])) / count)
    for suffix, per in (("", int(case["max_tokens"]) // count), ("_lightcompress", by_ratio)):
        for order, tail in (("strength", ""), ("cpython", "_cpython")):
            reducer = replace(embed, form="layer", order=order)
            yield _layer(case, reducer, embed.pivot_image + count * per, f"kept_indices{suffix}{tail}")
    yield _embed(case, embed)


def _layer(case: Arrays, reducer: DART, keep: int, name: str) -> Check:
    start, length = int(case["image_start"]), int(case["image_len"])

    def run(states: Tensor, keys: Tensor) -> Mapping[str, Tensor]:
        seen = {1: Seen({"out": states[None]}, qkv={True: QKV(keys[None], keys[None], keys[None])})}
        taps = EagerTaps((start,), length, len(states), seen, Shape(length, Grid(1, length)))
        kept = reducer.select(taps, Stage("decoder", 1, keep=keep)).indices
        assert kept is not None
        return {name: kept[0, 0] + start}

    arrays = (torch.from_numpy(case["normed_hidden"]), torch.from_numpy(case["key_states"]))
    return Check(name, run, arrays, {name: case[name]})


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
