"""Our parts played by any engine: pixels to rows, rows and words to logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.timing import Run
from benchmarks.work import Work
from engines.registry import engine


def played(work: Work, side: str, target: str) -> Run:
    """The parts in the backend of a target; dense and pruned share what is the same graph."""
    graphs, bench = work.bench.graphs(side), work.bench
    shared = {**graphs, "decoder": bench.graphs("dense")["decoder"], "embed": bench.graphs("dense")["embed"]}
    load = engine(target).load
    parts = {name: bench.once((target, path), partial(load, path)) for name, path in shared.items()}

    def vision() -> tuple[Any, Any]:
        seen = parts["vision"]({"pixel_values": work.pixels})
        return seen["image_embeds"], seen["kept_indices"]

    def prefill(seen: tuple[Any, Any]) -> Any:
        rows = seen[0]
        tokens = work.tokens(rows.shape[1])
        embeds = parts["embed"]({"input_ids": tokens, "image_embeds": rows.reshape(-1, rows.shape[2])})
        return parts["decoder"](decoder_feeds(work, embeds["inputs_embeds"]))["logits"][:, 0]

    return Run(vision, prefill, {})


def decoder_feeds(work: Work, embeds: Any) -> dict[str, Any]:
    """A whole prompt behind an empty cache, which is one masked slot."""
    text, (batch, length) = work.bench.config.text_config, embeds.shape[:2]
    width = text.hidden_size // text.num_attention_heads
    mask = np.ones((batch, 1 + length), np.int64)
    mask[:, 0] = 0
    feeds = {
        "inputs_embeds": embeds,
        "attention_mask": mask,
        "position_ids": np.tile(np.arange(length), (batch, 1)),
    }
    empty = np.zeros((batch, text.num_key_value_heads, 1, width), embeds.dtype)
    for layer in range(text.num_hidden_layers):
        feeds |= {f"past_key_values.{layer}.{kind}": empty for kind in ("key", "value")}
    return feeds
