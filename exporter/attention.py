"""Fused attention that keeps references to what went in, so that taps can recompute what a reducer asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from exporter.reducer import QKV

NAME = "tp_export"


@dataclass
class Tape:
    """One attention call: the past to put before its keys and values, and what it saw.

    `places` `[B,T]` say where in the past the new ones are written instead, in caches of constant length.
    """

    past: tuple[Tensor, Tensor] | None = None
    places: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    scale: float = 1.0

    @property
    def qkv(self) -> QKV:
        """What it saw, once it was called."""
        assert self.q is not None
        assert self.k is not None
        assert self.v is not None
        return QKV(self.q, self.k, self.v)


_LISTENING: list[Tape] = []


@contextmanager
def listening(tape: Tape) -> Iterator[None]:
    """Record the attention within, for modules that pass nothing on."""
    _LISTENING.append(tape)
    try:
        yield
    finally:
        _LISTENING.pop()


def fused(
    module: torch.nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    tape: Tape | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention for transformers' registry: `[B,H,n,d]` in, `[B,n,H,d]` out."""
    tape = _LISTENING[-1] if tape is None else tape
    if tape.past is not None:
        key, value = _behind(tape.past[0], key, tape.places), _behind(tape.past[1], value, tape.places)
    tape.q, tape.k, tape.v, tape.scale = query, key, value, scaling
    gqa = query.shape[1] != key.shape[1]
    out = scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=gqa)
    return out.transpose(1, 2), None


def _behind(past: Tensor, new: Tensor, places: Tensor | None) -> Tensor:
    """New rows `[B,h,T,d]` behind cached ones, or in their places."""
    if places is None:
        return torch.cat([past, new], 2)
    return past.scatter(2, places[:, None, :, None].expand(new.shape), new)


def register() -> str:
    """Register the function under its name, which a model's config then asks for."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, fused)
    return NAME
