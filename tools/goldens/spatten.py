"""Vectors of SpAtten: two turns of a conversation in a small LLaMA, the caches cut between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.methods.spatten import SpAtten
from tools.golden import Arrays, Check
from tools.goldens.decoders import Decoder, config, play

PARAMETERS = {
    "start": "start_size",
    "important": "important_size",
    "recent": "recent_size",
    "coming": "num_coming",
}


def checks(case: Arrays) -> Iterator[Check]:
    """States of every call, logits, caches before and after, and the places kept in them."""
    own = config(case)
    sizes = {"heads": own["num_heads"], "kv_heads": own["num_kv_heads"]}
    decoder = Decoder.of(case, "w.model.", **sizes, eps=own["rms_norm_eps"], theta=own["rope_theta"])
    reducer = SpAtten(**{name: own[key] for name, key in PARAMETERS.items()})
    length = case["turn1_embeds"].shape[1]
    shape, budget = decoder.shape(length), Budget(str(own["kv_len_after"]))
    stages, steps, turns = (each(shape, budget) for each in (reducer.plan, reducer.steps, reducer.turns))

    def run(first: Tensor, answer: Tensor, second: Tensor) -> Mapping[str, Tensor]:
        played = play(decoder, reducer, stages, first, 0, length, steps=steps)
        found = {"hidden_turn1": played.hidden}
        found |= {f"dec_hidden_t{n}": hidden for n, hidden in enumerate(played.run(list(answer)))}
        found |= {f"attn_logits_l{n}": played.state[f"logits.{n}"][:, :, None] for n in range(decoder.layers)}
        found |= _caches(played.past, "before")
        found |= {f"kept_l{n}": kept[0] for n, kept in enumerate(played.evict(turns))}
        found |= _caches(played.past, "after")
        [found["hidden_turn2"]] = played.run([second], more=True)
        return found

    inputs = [torch.from_numpy(case[name]) for name in ("turn1_embeds", "dec_embeds", "turn2_embeds")]
    given = ("hidden_", "dec_hidden_", "attn_logits_", "k_", "v_", "kept_")
    yield Check("two turns", run, inputs, {name: values for name, values in case.items() if name.startswith(given)})


def _caches(past: Mapping[int, tuple[Tensor, Tensor]], when: str) -> dict[str, Tensor]:
    return {f"{kind}_{when}_l{n}": values for n, pair in past.items() for kind, values in zip("kv", pair, strict=True)}
