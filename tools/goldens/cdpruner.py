"""Vectors of CDPruner: the authors' selection on CLIP relevance, and OpenVINO's on the same projected features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.similarity import mean_text
from exporter.methods.cdpruner import (
    EPSILON,
    CDPruner,
    clip_relevance,
    conditioned,
    likeliest,
    openvino_unit,
    spread,
)
from exporter.reducer import Grid, Shape
from exporter.select import gather_rows
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Relevance, kernel, order and kept tokens; OpenVINO's kernel, and what it keeps whole and in halves."""
    yield _paper(case)
    yield _openvino(case)


def _taps(rows: Tensor, **more: object) -> EagerTaps:
    shape = Shape(rows.shape[1], Grid(1, rows.shape[1]), has_cls=False)
    return EagerTaps((0,), shape.tokens, shape.tokens, {-1: Seen({"out": rows})}, shape, **more)  # type: ignore[arg-type]


def _paper(case: Arrays) -> Check:
    keep = int(case["keep"])

    def run(features: Tensor, images: Tensor, texts: Tensor) -> Mapping[str, Tensor]:
        inputs = {"clip_text": texts[None], "clip_mask": torch.ones(1, len(texts), dtype=torch.bool)}
        tower = _taps(images[None], inputs=inputs, align=lambda states, *, norm: states)  # noqa: ARG005
        tower.seen[0] = Seen({"out": images[None]})  # type: ignore[index]
        reducer = CDPruner()
        look, cut = reducer.plan(tower.shape, Budget(str(keep)))
        carry = reducer.select(tower, look).carry
        kept = reducer.select(_taps(features[None], carry=carry), cut).indices
        assert kept is not None
        relevance = spread(clip_relevance(tower, 0), above=EPSILON)
        kernel = conditioned(torch.nn.functional.normalize(features[None], dim=-1), relevance)
        return {
            "relevance": relevance[0],
            "kernel": kernel[0],
            "selection_order": likeliest(kernel, keep)[0],
            "kept_indices": kept[0, 0],
            "kept_features": gather_rows(features[None], kept[:, 0])[0],
        }

    names = ("relevance", "kernel", "selection_order", "kept_indices", "kept_features")
    arrays = tuple(torch.from_numpy(case[name]) for name in ("image_features", "image_embeds", "text_embeds"))
    return Check("paper", run, arrays, {name: case[name] for name in names})


def _openvino(case: Arrays) -> Check:
    total = len(case["image_features"])
    keep = (total * (100 - int(case["ov_pruning_ratio"])) + 50) // 100  # halves away from zero
    weight = float(case["ov_relevance_weight"])

    def run(features: Tensor, text: Tensor) -> Mapping[str, Tensor]:
        rows = features[None]
        inputs = {"text": text[None], "text_mask": torch.ones(1, len(text), dtype=torch.bool)}
        taps = _taps(rows, inputs=inputs)
        whole = CDPruner(mode="openvino", relevance_weight=weight, split=False)
        halves = CDPruner(mode="openvino", relevance_weight=weight)
        (cut,) = whole.plan(taps.shape, Budget(str(keep)))
        unit, meaning = openvino_unit(rows), openvino_unit(mean_text(taps))
        kernel = whole.openvino_kernel(unit, (unit * meaning[:, None]).sum(-1))
        kept, split = whole.select(taps, cut).indices, halves.select(taps, cut).indices
        assert kept is not None
        assert split is not None
        return {
            "ov_kernel": kernel[0],
            "ov_full_order": likeliest(kernel, keep)[0],
            "ov_full_kept": kept[0, 0],
            "ov_split_kept": split[0, 0],
        }

    names = ("ov_kernel", "ov_full_order", "ov_full_kept", "ov_split_kept")
    arrays = tuple(torch.from_numpy(case[name]) for name in ("image_features", "ov_text"))
    return Check("openvino", run, arrays, {name: case[name] for name in names})
