"""What generated rows find of each layer in the reference: which rows are still cached, and what steps make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from exporter.eager_taps import Seen
from exporter.family import Family
from exporter.line import Line
from exporter.reducer import QKV, Reducer, Shape, Stage, StateSpec
from exporter.row_taps import RowTaps

EMPTY = -2  # a slot that holds nothing


@dataclass
class Caches:
    """One prompt and all that is generated behind it, however often the sequence is run from its start.

    Attributes:
        picked: `[Hkv,K]` by layer: rows of the prompt that a cut of the cache alone left.
        alive: `[n]` by layer: rows of the uncut prompt that a later layer left.
        left: `[Hkv,K]` by layer, then by generated row: rows that are cached when a step is over.
        biases: `[S]` by generated row, then by layer: added to the logits of the layers behind.
        states: tensors that live from call to call, before each generated row.
        span: `[1,I,N]`: the slot of each token of the spans where steps look, -1 for those that are gone.
    """

    family: Family
    reducer: Reducer
    shape: Shape
    steps: tuple[Stage, ...] = ()
    specs: tuple[StateSpec, ...] = ()
    picked: dict[int, Tensor] = field(default_factory=dict)
    alive: dict[int, Tensor] = field(default_factory=dict)
    left: dict[int, list[Tensor]] = field(default_factory=dict)
    biases: list[dict[int, Tensor]] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    following: dict[str, Tensor] = field(default_factory=dict)
    span: Tensor = field(default_factory=lambda: torch.zeros(1, 0, 0, dtype=torch.int64))

    @property
    def fresh(self) -> dict[str, Tensor]:
        """States as an episode begins."""
        made = {}
        for spec in self.specs:
            if spec.reset == "episode":
                sizes = [size for size in spec.shape if isinstance(size, int)]
                made[spec.name] = torch.full((1, *sizes), spec.initial, dtype=getattr(torch, spec.dtype))
        return made

    def read_by(self, part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that one part takes."""
        wanted = {spec.name for spec in self.specs if part in spec.reads}
        return {name: value for name, value in state.items() if name in wanted}

    def passed(self, prompt: Mapping[str, Tensor]) -> None:
        """One more row is over, or the prompt, which left new states."""
        before = self.states[-1] if self.states else {**self.fresh, **prompt}
        self.states.append({**before, **self.following})
        self.following = {}

    def attend(self, layer: int, module: Any, seen: Seen, line: Line, attended: Tensor) -> Tensor:
        """Attention `[1,S,C]` of a layer, that of generated rows over what is cached for them."""
        self._look_up(layer, line)
        if not self._special(layer):
            return attended
        attended = attended.clone()
        for row in range(attended.shape[1] - line.prompt):
            slots = torch.cat([self._slots(layer, row, seen, line), self._own(line.prompt + row, seen)], 1)
            taps = self._taps(layer, row, slots, seen, line)
            attended[0, line.prompt + row] = module.o_proj(taps.answer)
            if row == len(self.states) - 1:  # rows before it have made their choices
                self._decide(layer, row, slots, taps, line)
        return attended

    def _special(self, layer: int) -> bool:
        cut = layer in self.picked or layer in self.alive
        return cut or self.reducer.positions == "slot" or any(stage.layer <= layer for stage in self.steps)

    def _look_up(self, layer: int, line: Line) -> None:
        """Where the spans' tokens are in the cache of the first layer that steps look at."""
        if layer != next((stage.layer for stage in self.steps if stage.at == "after"), None):
            return
        span = torch.full((1, len(line.starts), self.shape.tokens), -1)
        for number, (start, origin) in enumerate(zip(line.starts, line.origin.tolist(), strict=True)):
            for place, token in enumerate(origin):
                if token >= 0:
                    span[0, number, token] = start + place
        self.span = span

    def _own(self, place: int, seen: Seen) -> Tensor:
        return torch.full((seen.qkv[True].k.shape[1], 1), place)

    def _slots(self, layer: int, row: int, seen: Seen, line: Line) -> Tensor:
        """`[Hkv,n]`: rows cached before a generated one."""
        if layer in self.left and row:
            return self.left[layer][row - 1]
        heads, before = seen.qkv[True].k.shape[1], torch.arange(line.prompt)
        if layer in self.alive:
            assert line.rows is not None
            before = before[torch.isin(line.rows[: line.prompt], self.alive[layer])]
        found = self.picked.get(layer, before.expand(heads, -1))
        return torch.cat([found, torch.arange(line.prompt, line.prompt + row).expand(heads, -1)], 1)

    def _taps(self, layer: int, row: int, slots: Tensor, seen: Seen, line: Line) -> RowTaps:
        place, rows, first = line.prompt + row, slots.clamp(min=0), slots[0].clamp(min=0)
        valid = slots[0] != EMPTY
        valid = valid if line.valid is None else valid & line.valid[first]
        slotted = self.reducer.positions == "slot"
        q, k, v = seen.qkv[not slotted]
        q = q[:, :, place : place + 1]
        k, v = (torch.stack([values[0, head, each] for head, each in enumerate(rows)])[None] for values in (k, v))
        if slotted:
            q, k = self._turned(q, k, valid)
        bias = torch.zeros(len(first)) if line.bias is None else line.bias[first]
        if earlier := [at for at in self._bias_of(row) if at < layer]:
            bias = bias + self._bias_of(row)[max(earlier)][first]
        state = self.read_by("decode", self.states[row]) if self.steps else {}
        return RowTaps(QKV(q, k, v), seen.scale, valid[None], bias, self.span, self.shape, state)

    def _bias_of(self, row: int) -> dict[int, Tensor]:
        return self.biases[row] if row < len(self.biases) else {}

    def _turned(self, q: Tensor, k: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Query and keys rotated by their slots' numbers."""
        rotary, turn = self.family.decoder.rotary, self.family.decoder.turn
        assert rotary is not None
        assert turn is not None
        cos, sin = rotary(k, (valid.cumsum(0) - 1).clamp(min=0)[None])
        return turn(q, (cos[:, -1:], sin[:, -1:])), turn(k, (cos, sin))

    def _decide(self, layer: int, row: int, slots: Tensor, taps: RowTaps, line: Line) -> None:
        """The stages of one step behind one layer."""
        for stage in self.steps:
            if stage.layer != layer:
                continue
            selection = self.reducer.decode(taps, stage)  # type: ignore[arg-type]
            self.following |= selection.state
            if stage.at == "kv":
                assert selection.indices is not None
                chosen = selection.indices[0]
                left = slots.gather(1, chosen.clamp(min=0)).masked_fill(chosen < 0, EMPTY)
                self.left.setdefault(layer, []).append(left)
            if selection.key_bias is not None:
                self.biases += [{} for _ in range(row + 1 - len(self.biases))]
                self.biases[row][layer] = self._by_row(selection.key_bias[0], line)

    def _by_row(self, bias: Tensor, line: Line) -> Tensor:
        """`[I,N]` by token as `[S]` by row."""
        assert line.positions is not None
        by_row = torch.zeros(line.positions.shape[-1])
        for places, added in zip(self.span[0], bias, strict=True):
            by_row[places[places >= 0]] = added[places >= 0].float()
        return by_row
