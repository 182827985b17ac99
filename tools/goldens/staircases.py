"""What the adapters of methods share that cut a picture in several layers of the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.reducer import Reducer
from tools.golden import Arrays, Check
from tools.goldens.decoders import Decoder, Played, config, play
from tools.goldens.recorded import given

PREFIXES = ("k_cache_l", "v_cache_l", "dec_hidden_t", "dec_k_new_l", "kept_stage", "position_ids_after_stage")


def check(case: Arrays, decoder: Decoder, reducer: Reducer, layers: Sequence[int]) -> Check:
    """Kept rows, positions, scores of every cut behind `layers` (from 1); states, caches, tokens after the prompt."""
    cfg = config(case)
    width, start = int(cfg["n_image"]), int(cfg["image_start"])
    stages = reducer.plan(decoder.shape(width), Budget("100%"))
    scored = {f"score_stage{number}": layer - 1 for number, layer in enumerate(layers)}
    cut = {stage.layer for stage in stages if stage.keep is not None}
    scored = {name: layer for name, layer in scored.items() if layer in cut}  # else nothing goes

    def run(embeds: Tensor, steps: Tensor) -> Mapping[str, Tensor]:
        played = play(decoder, reducer, stages, embeds, start, width)
        out = played.run(list(steps))
        found = {"hidden_prefill": played.hidden, "kv_len_prefill": played.lengths, **played.cache()}
        found |= {f"dec_hidden_t{number}": hidden for number, hidden in enumerate(out)}
        found |= {f"dec_k_new_l{layer}": past[0][:, :, -len(out) :] for layer, past in played.past.items()}
        found["dec_position_ids"] = played.places[0][0] - torch.arange(len(out), 0, -1)
        found |= {name: played.walk.outputs[f"scores.{layer}"][0, 0] for name, layer in scored.items()}
        return found | _rows(played, layers)

    names = {"hidden_prefill", "kv_len_prefill", "dec_position_ids", *scored}
    return Check("decoder", run, given(case), {n: v for n, v in case.items() if n in names or n.startswith(PREFIXES)})


def _rows(played: Played, layers: Sequence[int]) -> dict[str, Tensor]:
    """Places before any cut, and positions, of the rows behind each cut."""
    found = dict[str, Tensor]()
    for number, layer in enumerate(layers):
        sequence = played.caches[layer].sequence
        assert sequence.rows is not None
        assert sequence.positions is not None
        found |= {f"kept_stage{number}": sequence.rows[0], f"position_ids_after_stage{number}": sequence.positions}
    return found
