"""Vectors of AIM: merged rows of several frames; a decoder with its weights, and what it masks layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.surfing import surfed
from exporter.methods.aim import AIM, Mask
from exporter.reducer import Selection, Stage, Taps
from tools.golden import Arrays, Check
from tools.goldens.decoders import Decoder, config, play
from tools.goldens.video import video_taps


@dataclass(frozen=True)
class Watched(AIM):
    """The same, looking at every layer."""

    def select(self, taps: Taps, stage: Stage) -> Selection:
        acts = stage.keep is not None or isinstance(stage, Mask)
        found = super().select(taps, stage) if acts else Selection()
        alive = found.carry.get("alive", taps.carry.get("alive", torch.ones(taps.span.shape)))
        scores = surfed(taps, stage.layer, self.tau, self.iterations, self.damping)
        seen = {f"importance.{stage.layer}": scores[0], f"alive.{stage.layer}": alive[0, 0] > 0}
        if found.indices is not None:
            seen[f"kept.{stage.layer}"] = found.indices[0, 0]
        return Selection(found.indices, key_bias=found.key_bias, carry=found.carry, outputs=seen)


def checks(case: Arrays) -> Iterator[Check]:
    """Both merges; masking with all that was recorded; dropping as far as it is the same."""
    for name, want in case.items():
        if name.startswith("merge_out"):
            yield _merge(case, name, want.shape[1])
    cfg = config(case)
    heads, kv_heads = int(cfg["num_heads"]), int(cfg["num_kv_heads"])
    decoder = Decoder.of(case, heads=heads, kv_heads=kv_heads, eps=cfg["rms_norm_eps"], theta=cfg["rope_theta"])
    yield _masking(case, cfg, decoder)
    yield _dropping(case, cfg, decoder)


def _merge(case: Arrays, name: str, each: int) -> Check:
    def run(video: Tensor) -> Mapping[str, Tensor]:
        taps = video_taps(video[None])
        reducer = AIM(step=0.0)
        (stage,) = reducer.plan(taps.shape, Budget(str(each * len(video))))
        mix = reducer.select(taps, stage).mix
        assert mix is not None
        return {name: (mix[0, 0] @ video.flatten(0, 1)).reshape(len(video), each, -1)}

    return Check(name, run, (torch.from_numpy(case["merge_in"]),), {name: case[name]})


def _reducer(cfg: dict[str, Any], mode: str) -> AIM:
    """With the recorded schedule, which must be of the authors' form."""
    rates = cfg["retain_rate"]
    start = next(layer for layer, rate in enumerate(rates) if rate < 1)
    step = 1 - rates[start]
    given = [1.0] * start + [max(0.0, 1 - step * (n + 1)) for n in range(len(rates) - start)]
    assert np.allclose(rates, given)
    return Watched(
        mode=mode,
        merge=False,
        start=start,
        step=step,
        tau=cfg["tau_imp"],
        iterations=cfg["pagerank_iters"],
        damping=cfg["pagerank_d"],
    )


def _masking(case: Arrays, cfg: dict[str, Any], decoder: Decoder) -> Check:
    width, start, reducer = int(cfg["n_image"]), int(cfg["image_start"]), _reducer(cfg, "mask")
    stages = {stage.layer: stage for stage in reducer.plan(decoder.shape(width), Budget("100%"))}
    every = tuple(stages.get(layer, Stage("decoder", layer)) for layer in range(decoder.layers))
    text = torch.ones(case["inputs_embeds"].shape[1] - width) > 0

    def run(embeds: Tensor, steps: Tensor) -> Mapping[str, Tensor]:
        played = play(decoder, reducer, every, embeds, start, width)
        layers, seen = range(decoder.layers), played.walk.outputs
        out = played.run([steps.flatten(0, 1).transpose(0, 1)])[0]  # both at once: causal, and half the graph
        alive = torch.stack([seen[f"alive.{layer}"].to(torch.int64) for layer in layers])
        rows = text.to(torch.int64).expand(len(layers), -1)
        return {
            "importance_raw_per_layer": torch.stack([seen[f"importance.{layer}"] for layer in layers]),
            "keep_mask_after_layer": torch.cat([rows[:, :start], alive, rows[:, start:]], 1) > 0,
            "n_visual_after_layer": alive.sum(1),
            "hidden_prefill_masked": played.hidden,
            "hidden_prefill_last_token": played.hidden[:, -1],
            **{f"dec_hidden_t{number}": out[:, number : number + 1] for number in range(len(steps))},
        }

    names = ("importance_raw_per_layer", "keep_mask_after_layer", "n_visual_after_layer", "hidden_prefill_masked")
    want = {n: v for n, v in case.items() if n in {*names, "hidden_prefill_last_token"} or n.startswith("dec_hidden")}
    inputs = (torch.from_numpy(case["inputs_embeds"]), torch.from_numpy(case["dec_embeds"]))
    return Check("mask", run, inputs, want)


def _dropping(case: Arrays, cfg: dict[str, Any], decoder: Decoder) -> Check:
    """The first cut, before which nothing differs, and how many rows each layer has."""
    width, start, reducer = int(cfg["n_image"]), int(cfg["image_start"]), _reducer(cfg, "drop")
    stages, length = reducer.plan(decoder.shape(width), Budget("100%")), case["inputs_embeds"].shape[1]
    first = stages[0].layer

    def run(embeds: Tensor) -> Mapping[str, Tensor]:
        played = play(decoder, reducer, stages, embeds, start, width)
        seen = played.walk.outputs
        return {
            "importance": seen[f"importance.{first}"],
            "kept": seen[f"kept.{first}"],
            "lengths": played.lengths,
            "rows": torch.tensor(played.hidden.shape[1]),
        }

    left = case["n_visual_after_layer"]
    want = {
        "importance": case["importance_raw_per_layer"][first],
        "kept": case["keep_mask_after_layer"][first, start : start + width].nonzero()[0],
        "lengths": np.array([width, *left[:-1]]) + length - width,
        "rows": left[-1] + length - width,
    }
    return Check("drop", run, (torch.from_numpy(case["inputs_embeds"]),), want)
