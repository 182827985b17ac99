"""Vectors of FastV: a small decoder with its weights, what the last token attends to, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.methods.fastv import FastV
from exporter.select import ranked
from tools.golden import Arrays, Check
from tools.goldens.decoders import config, play
from tools.goldens.recorded import given, recorded, watched


def checks(case: Arrays) -> Iterator[Check]:
    """Scores and kept rows; states of the prompt, its caches, states and positions of the tokens after it."""
    cfg = config(case)
    decoder, width, start = recorded(case), int(cfg["n_image"]), int(cfg["image_start"])
    keep = round(width * (1 - float(cfg["fastv_r"])))
    reducer, cut = watched(FastV)(k=int(cfg["fastv_k"])), int(cfg["fastv_k"])
    stages = reducer.plan(decoder.shape(width), Budget(str(keep)))

    def run(embeds: Tensor, steps: Tensor) -> Mapping[str, Tensor]:
        played = play(decoder, reducer, stages, embeds, start, width)
        out = played.run(list(steps))
        places = played.places[0][0] - torch.arange(len(out), 0, -1)
        found = {"hidden_prefill": played.hidden, "kv_len_prefill": played.lengths, "dec_position_ids": places}
        found |= {f"dec_hidden_t{number}": hidden for number, hidden in enumerate(out)}
        rows = played.caches[cut].sequence.rows
        assert rows is not None
        found["kept_indices"] = rows[0]
        if stages:
            scores = played.walk.outputs[f"scores.{stages[0].layer}"][0, 0]
            found |= {"score_image": scores, "topk_indices_unsorted": ranked(scores, keep)}
        return found | played.cache()

    names = {"hidden_prefill", "kv_len_prefill", "dec_position_ids", "kept_indices"}
    names |= {"score_image", "topk_indices_unsorted"} if stages else set()
    want = {n: v for n, v in case.items() if n in names or n.startswith(("k_cache_l", "v_cache_l", "dec_hidden_t"))}
    yield Check("decoder", run, given(case), want)
