"""New rows over cached ones: the layers of one group at a time, with a reducer acting at its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from exporter.attention import Tape
from exporter.caches import KV, Group, chosen, filled
from exporter.masks import attention_mask
from exporter.reducer import QKV, Reducer, Rows, Shape, Stage
from exporter.select import gather_rows
from exporter.stack import Rope, Stack, unturned
from exporter.taps import attended


@dataclass(frozen=True)
class SlotTaps:
    """The taps of a step (see `exporter.reducer.Taps`): its rows are the slots of one layer, the new ones last."""

    slots: Tensor  # [B,P+T] bool
    seen: Tensor  # [B,1,T,P+T] what is added to the logits, or bool
    qkv_of: Mapping[int, Tape]  # of layers that ran in this step
    span: Tensor
    shape: Shape
    state: Mapping[str, Tensor]
    carry: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def valid(self) -> Tensor:
        """`[B,P+T]` bool."""
        return self.slots

    def qkv(self, layer: int, *, rope: bool = True) -> QKV:
        """Queries `[B,H,T,d]` of the new rows, k and v `[B,Hkv,P+T,d]` of all."""
        assert rope
        return self.qkv_of[layer].qkv

    def rows(self, layer: int, rows: Rows, *, logits: bool = False) -> Tensor:
        """Attention of the new rows, `[B,H,T,P+T]` fp32; `last`: of the last valid one, `[B,H,1,P+T]`."""
        q, k, _ = self.qkv(layer)
        found = attended(q, k, self.qkv_of[layer].scale, self.seen, logits=logits)
        if isinstance(rows, str):
            last = self.last_new.reshape(-1, 1, 1, 1).expand(-1, found.shape[1], -1, found.shape[3])
            return found.gather(2, last)
        return found

    @property
    def last_new(self) -> Tensor:
        """`[B]` int64: which of the new rows is the last valid one."""
        new = self.seen.shape[2]
        fresh = self.slots[:, self.slots.shape[1] - new :]
        return torch.where(fresh, torch.arange(new), 0).amax(1)

    def span_of(self, values: Tensor) -> Tensor:
        """The spans of `[B,...,P+T]` as `[B,I,...,N]`, 0 where a token is gone."""
        rows, (batch, count, width) = values.movedim(-1, 1), self.span.shape
        flat = gather_rows(rows, self.span.clamp(min=0).flatten(1)).reshape(batch, count, width, *rows.shape[2:])
        there = (self.span >= 0).to(flat.dtype).reshape(*self.span.shape, *(1 for _ in flat.shape[3:]))
        return (flat * there).movedim(2, -1)


@dataclass
class Step:
    """New rows on their way through the layers, group by group."""

    stack: Stack
    reducer: Reducer
    stages: tuple[Stage, ...]
    shape: Shape
    hidden: Tensor  # [B,T,C]
    span: Tensor | None = None  # [B,I,N] slots of the spans' tokens
    state: Mapping[str, Tensor] = field(default_factory=dict)
    following: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    present: dict[int, KV] = field(default_factory=dict)
    kept: dict[int, Tensor] = field(default_factory=dict)  # by layer, `[B,K]` bool: slots of caches that were cut
    bias: Tensor | None = None  # [B,P+T] fp32, of this step

    def run(
        self, group: Group, slots: Tensor, positions: Tensor | None, bias: Tensor | None, past: Mapping[int, KV]
    ) -> None:
        """The layers of one group: `slots` `[B,P+T]` bool, `positions` of the new rows (None: their slots)."""
        for layer in group.layers:
            mask = self._mask(slots, bias)
            every = slots.to(torch.int64).cumsum(1) - 1 if positions is None else positions
            assert self.stack.rotary is not None
            rope = self.stack.rotary(self.hidden, every.clamp(min=0) if positions is None else every)
            tape = self._layer(layer, mask, rope, past[layer], slotted=positions is None)
            self._act(layer, tape, slots, mask)

    def _mask(self, slots: Tensor, bias: Tensor | None) -> Tensor:
        return attention_mask(slots, self.hidden, self._biased(bias))

    def _tape(self, past: KV) -> Tape:
        return Tape(past=past)

    def _biased(self, bias: Tensor | None) -> Tensor | None:
        if self.bias is None:
            return bias
        return self.bias if bias is None else bias + self.bias

    def _layer(self, layer: int, mask: Tensor, rope: Rope, past: KV, *, slotted: bool) -> Tape:
        block, x, new = self.stack.blocks[layer], self.hidden, self.hidden.shape[1]
        keys, fresh = past[0], rope
        if slotted:
            assert self.stack.turn is not None
            old, fresh = ((t[:, : t.shape[1] - new] for t in rope), tuple(t[:, t.shape[1] - new :] for t in rope))  # type: ignore[assignment]
            keys = self.stack.turn(past[0], tuple(old))  # type: ignore[arg-type]
        tape = self._tape((keys, past[1]))
        x = x + block.attention(block.norm1(self.hidden), mask, fresh, tape)
        assert tape.k is not None
        assert tape.v is not None
        key = tape.k
        if slotted:
            bare = unturned(block, self.hidden, fresh).k
            assert bare is not None
            key = torch.cat([past[0], bare], 2)
        self.present[layer] = (key, tape.v)
        self.hidden = x + block.mlp(block.norm2(x))
        return tape

    def _act(self, layer: int, tape: Tape, slots: Tensor, mask: Tensor) -> None:
        for stage in self.stages:
            if stage.layer != layer:
                continue
            span = torch.zeros(slots.shape[0], 0, 0, dtype=torch.int64) if self.span is None else self.span
            taps = SlotTaps(slots, mask, {layer: tape}, span, self.shape, self.state)
            selection = self.reducer.decode(taps, stage)  # type: ignore[arg-type]
            self.following |= selection.state
            self.outputs |= selection.outputs
            if stage.at == "kv":
                self._keep(layer, selection.indices, slots)
            if selection.key_bias is not None:
                self.bias = self._by_slot(selection.key_bias, slots)

    def _keep(self, layer: int, indices: Tensor | None, slots: Tensor) -> None:
        assert indices is not None
        self.present[layer] = chosen(self.present[layer], indices)
        self.kept[layer] = filled(slots, indices)

    def _by_slot(self, bias: Tensor, slots: Tensor) -> Tensor:
        """`[B,I,N]` by token as `[B,P+T]` by slot; what is gone goes to a slot that is cut off again."""
        assert self.span is not None
        length = slots.shape[1]
        place = torch.where(self.span >= 0, self.span, length).flatten(1)
        wide = torch.zeros(slots.shape[0], length + 1).scatter(1, place, bias.flatten(1).float())
        return wide[:, :length]
