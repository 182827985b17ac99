"""What adapters of recorded decoders read from a case, and a method that also says what it ranked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from exporter.reducer import Reducer, Selection, Stage, Taps
from tools.golden import Arrays
from tools.goldens.decoders import Decoder, config


def recorded(case: Arrays) -> Decoder:
    """The model, by its config."""
    cfg = config(case)
    heads, kv_heads = int(cfg["num_heads"]), int(cfg["num_kv_heads"])
    return Decoder.of(case, heads=heads, kv_heads=kv_heads, eps=cfg["rms_norm_eps"], theta=cfg["rope_theta"])


def given(case: Arrays) -> tuple[Tensor, Tensor]:
    """The prompt, and the tokens after it."""
    return torch.from_numpy(case["inputs_embeds"]), torch.from_numpy(case["dec_embeds"])


def listed(values: Iterable[float] | None) -> str:
    """A list as a parameter takes it."""
    return ",".join(map(str, values or ()))


def watched(method: type[Reducer]) -> type[Reducer]:
    """The method with `scores.LAYER` `[B,I,n]` among its outputs."""

    class Watched(method):  # type: ignore[misc, valid-type]
        def select(self, taps: Taps, stage: Stage) -> Selection:
            found = super().select(taps, stage)
            said = {} if found.scores is None else {f"scores.{stage.layer}": found.scores}
            return replace(found, outputs={**found.outputs, **said})

    return Watched
