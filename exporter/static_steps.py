"""New rows over caches of constant length, into which they are written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporter.attention import Tape
from exporter.caches import KV
from exporter.masks import attention_mask
from exporter.select import gather_rows
from exporter.steps import Step


@dataclass
class StaticStep(Step):
    """A step whose rows go to the slots `places` `[B,T]` of the group that runs; its slots `[B,N]` are with them.

    Reducers look at it as at a cache that grows: the slots without the new rows, then these.
    """

    places: Tensor | None = None
    added: Tensor | None = None  # [B,N] fp32, to the logits of the layer that runs

    def _mask(self, slots: Tensor, bias: Tensor | None) -> Tensor:
        self.added = self._biased(bias)
        return attention_mask(slots, self.hidden, self.added, self.places)

    def _tape(self, past: KV) -> Tape:
        return Tape(past=past, places=self.places)

    def _act(self, layer: int, tape: Tape, slots: Tensor, mask: Tensor) -> None:
        del mask  # of the slots as they are written
        if not any(stage.layer == layer for stage in self.stages):
            return
        assert self.places is not None
        written = torch.zeros(slots.shape).scatter(1, self.places, 1.0) > 0
        grown = torch.cat([slots & ~written, slots.gather(1, self.places)], 1)
        bias = None if self.added is None else torch.cat([self.added, self.added.gather(1, self.places)], 1)
        seen = replace(tape, k=self._grown(tape, tape.k, 0), v=self._grown(tape, tape.v, 1))
        super()._act(layer, seen, grown, attention_mask(grown, self.hidden, bias))

    def _grown(self, tape: Tape, every: Tensor | None, kind: int) -> Tensor:
        """`[B,Hkv,N+T,d]`: the past, and behind it the new rows."""
        assert every is not None
        assert tape.past is not None
        assert self.places is not None
        new = gather_rows(every, self.places[:, None].expand(-1, every.shape[1], -1))
        return torch.cat([tape.past[kind], new], 2)

    def _by_slot(self, bias: Tensor, slots: Tensor) -> Tensor:
        return super()._by_slot(bias, slots)[:, : slots.shape[1] - self.hidden.shape[1]]
