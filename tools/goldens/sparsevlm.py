"""Vectors of SparseVLM: a small decoder with its weights, what was rated, kept and merged, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.raters import relevance
from exporter.methods.sparsevlm import SparseVLM
from exporter.reducer import Selection, Stage, Taps
from exporter.select import ascending, gather_rows, marked, ranked
from tools.golden import Arrays, Check
from tools.goldens.decoders import Decoder, config, play

OURS = {"text_rater_idx": "raters"}  # recorded as places; ours are weights


@dataclass(frozen=True)
class Watched(SparseVLM):
    """The same, and it says what it saw."""

    def select(self, taps: Taps, stage: Stage) -> Selection:
        found = super().select(taps, stage)
        if stage.keep is None:
            shares, text = relevance(taps)
            behind = (torch.arange(text.shape[1]) >= taps.span[:, 0, :1])[0]
            weights = gather_rows(found.marks["rater"], taps.outside)
            found.outputs.update(text_rater_scores=shares[:, behind], raters=weights[:, behind])  # type: ignore[attr-defined]
            return found
        received, name = self.received(taps, stage.layer), f"{{}}.{stage.layer}"
        assert found.scores is not None
        assert found.indices is not None
        seen = {
            "keep_mask": marked(found.indices, received.shape[-1])[0, 0] > 0,
            "score": found.scores[0],
            "head_scores": received.sum(-1)[0, 0],
            "heads_selected": ascending(ranked(received.sum(-1), min(self.heads, received.shape[2])))[0, 0],
        }
        if found.mix is not None:
            rows = gather_rows(taps.hidden(stage.layer), taps.span.flatten(1))
            merged = self._clusters(received.shape[-1] - stage.keep)[0]
            seen["merge_in"] = gather_rows(rows, ranked(found.scores, stage.keep + merged)[:, 0, stage.keep :])
            seen["merge_out"] = found.mix[:, 0] @ rows
            seen["merge_clusters"] = torch.tensor(found.mix.shape[2])
        found.outputs.update({name.format(key): value for key, value in seen.items()})  # type: ignore[attr-defined]
        return found


def checks(case: Arrays) -> Iterator[Check]:
    """Raters and every cut; the states of the prompt, its caches, and of the tokens after it."""
    cfg = config(case)
    heads, kv_heads = int(cfg["num_heads"]), int(cfg["num_kv_heads"])
    decoder = Decoder.of(case, heads=heads, kv_heads=kv_heads, eps=cfg["rms_norm_eps"], theta=cfg["rope_theta"])
    layers, left = cfg["prune_at_layers_0based"], cfg["keep_per_stage"]
    reducer = Watched(
        version=cfg["version"].replace("_", "."),
        layers=",".join(map(str, layers)),
        counts=",".join(map(str, left)),
    )
    width, start = int(cfg["n_image"]), int(cfg["image_start"])
    stages = reducer.plan(decoder.shape(width), Budget("100%"))

    def run(embeds: Tensor, steps: Tensor) -> Mapping[str, Tensor]:
        played = play(decoder, reducer, stages, embeds, start, width)
        out = played.run(list(steps))
        found = {"hidden_prefill": played.hidden, "kv_len_prefill": played.lengths, **played.cache()}
        found |= {f"dec_hidden_t{number}": hidden for number, hidden in enumerate(out)}
        return found | played.walk.outputs

    inputs = (torch.from_numpy(case["inputs_embeds"]), torch.from_numpy(case["dec_embeds"]))
    yield Check("decoder", run, inputs, _wanted(case, layers))


def _wanted(case: Arrays, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """What was recorded, under our names."""
    plain = ("hidden_prefill", "kv_len_prefill", "text_rater_scores")
    want = {n: v for n, v in case.items() if n in plain or n.startswith(("k_cache", "v_cache", "dec_hidden"))}
    raters = np.zeros_like(case["text_rater_scores"])
    raters[:, case["text_rater_idx"]] = 1
    for number, layer in enumerate(layers):
        end = f"_stage{number}"
        want |= {f"{n.removesuffix(end)}.{layer}": values for n, values in case.items() if n.endswith(end)}
    return want | {"raters": raters}
