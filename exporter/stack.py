"""A run of layers over one sequence, with a reducer acting at its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from exporter.attention import Tape
from exporter.caches import Cached
from exporter.masks import attention_mask, visible
from exporter.reducer import Reducer, Selection, Shape, Site, StackName, Stage
from exporter.sequence import Sequence, cut
from exporter.taps import Record, RecordedTaps

Rope = tuple[Tensor, Tensor]


class Attention(Protocol):
    """One attention layer of a family: `[B,n,C]` normalised in, `[B,n,C]` out, recorded on the tape."""

    def __call__(self, x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:
        """Attend."""


@dataclass(frozen=True)
class Block:
    """A pre-norm transformer layer taken apart: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`."""

    norm1: Callable[[Tensor], Tensor]
    attention: Attention
    norm2: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stack:
    """Layers over a token sequence.

    `rotary` turns positions `[B,S]` into (cos, sin) where the family has them; `window` says which rows of a sequence
    a layer lets see each other, `[B,1,S,S]` bool or None: all, or the block sees to it (`Sequence.whole`); `norm` is
    what follows the last layer, `turn` rotates keys `[B,Hkv,n,d]`.
    """

    name: StackName
    blocks: tuple[Block, ...] = ()
    rotary: Callable[[Tensor, Tensor], Rope] | None = None
    window: Callable[[int, Sequence], Tensor | None] | None = None
    norm: Callable[[Tensor], Tensor] | None = None
    turn: Callable[[Tensor, Rope], Tensor] | None = None


def unturned(block: Block, x: Tensor, rope: Rope | None) -> Tape:
    """q, k, v of a layer for its input `x`, before rotation; not part of the main path."""
    tape = Tape()
    tables = None if rope is None else (torch.ones_like(rope[0]), torch.zeros_like(rope[1]))
    block.attention(block.norm1(x), None, tables, tape)
    return tape


@dataclass
class Walk:
    """One sequence on its way through a stack."""

    stack: Stack
    reducer: Reducer
    stages: tuple[Stage, ...]
    shape: Shape
    sequence: Sequence
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    align: Callable[..., Tensor] | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    following: dict[str, Tensor] = field(default_factory=dict)  # new values of state tensors
    caches: list[Cached] = field(default_factory=list)  # by layer

    def run(self, layers: int) -> Sequence:
        """Run layers 0 to `layers - 1` and the stages among them."""
        self.start = self.sequence
        self._enter(-1, self.start)
        self._act(-1)
        for layer in range(layers):
            self._layer(layer)
        return self.sequence

    def _enter(self, layer: int, sequence: Sequence, at: Site = "after") -> None:
        """Go on with a sequence of other tokens: of what ran before, only its own hidden states still fit."""
        self.sequence = sequence
        self.records = {layer: Record({"mid" if at == "mid" else "out": sequence.hidden})}
        valid = sequence.valid
        self.mask: Tensor | None = None
        if valid is not None:
            self.mask = attention_mask(valid, sequence.hidden, sequence.bias)
        elif sequence.bias is not None:
            length = sequence.hidden.shape[1]  # ONNX Runtime does not broadcast a mask over queries
            self.mask = sequence.bias[:, None, None].to(sequence.hidden.dtype).expand(-1, -1, length, -1)
        self.rope: Rope | None = None
        if self.stack.rotary is not None and sequence.positions is not None:
            self.rope = self.stack.rotary(sequence.hidden, sequence.positions)

    def _layer(self, layer: int) -> None:
        around = self._stages(layer, "around")
        for stage in around:
            self._around(stage)
        if not around:
            self._run(layer)
        self._compact(layer)

    def _run(self, layer: int) -> None:
        record = self.records[layer] = Record()
        x = self._attend(layer, record)
        if (key := self._key(layer, record)) is not None and record.tape.v is not None:
            self.caches.append(Cached(key, record.tape.v, self.sequence, self.sequence.width))
        self.sequence = replace(self.sequence, hidden=x)
        self._act(layer, "mid")
        record = self.records[layer]  # a new one if tokens were cut
        self.sequence = replace(self.sequence, hidden=self._think(layer, record, self.sequence.hidden))
        for stage in self._stages(layer, "kv"):
            if stage.since is None:
                selection = self._selected(stage)
                assert selection.indices is not None
                self.caches[layer] = self.caches[layer].picked(selection.indices)
        self._act(layer)

    def _key(self, layer: int, record: Record) -> Tensor | None:
        """What is cached: keys as they were used, or before rotation where slots are positions."""
        if self.reducer.positions == "slot":
            return self._project(layer, rope=False).k
        return record.tape.k

    def _compact(self, layer: int) -> None:
        """Cut caches of layers that ran to what is alive now."""
        for stage in self._stages(layer, "kv"):
            if stage.since is not None:
                alive = self.sequence
                for number in range(stage.since, layer + 1):
                    self.caches[number] = self.caches[number].reduced(alive)

    def _around(self, stage: Stage) -> None:
        """Run one layer on the rows chosen; what they carry afterwards returns to their places with them."""
        selection, full = self._selected(stage), self.sequence
        own = torch.arange(full.hidden.shape[1]).expand(full.hidden.shape[:2])
        chosen = cut(replace(full, rows=own), stage, selection, renumber=False)
        assert chosen.rows is not None
        assert selection.indices is not None
        self._enter(stage.layer - 1, chosen)
        self._run(stage.layer)
        if self.caches:
            self.caches[-1] = replace(self.caches[-1], full=full)
        ran = self.sequence
        place = chosen.rows[..., None].expand(ran.hidden.shape)
        back = {name: torch.zeros(full.origin.shape, dtype=v.dtype) for name, v in ran.carry.items()} | dict(full.carry)
        carry = {name: v.scatter(-1, selection.indices, ran.carry[name]) for name, v in back.items()}
        self._enter(stage.layer, replace(full, hidden=full.hidden.scatter(1, place, ran.hidden), carry=carry))

    def _attend(self, layer: int, record: Record) -> Tensor:
        """The first half of a layer: the residual stream behind its attention."""
        block, x = self.stack.blocks[layer], self.sequence.hidden
        normed = block.norm1(x)
        attended = block.attention(normed, self._masked(layer), self.rope, record.tape)
        record.points |= {"in": x, "attention_in": normed, "attention_out": attended, "mid": x + attended}
        return x + attended

    def _think(self, layer: int, record: Record, x: Tensor) -> Tensor:
        """The second half."""
        block = self.stack.blocks[layer]
        normed = block.norm2(x)
        moved = block.mlp(normed)
        record.points |= {"mlp_in": normed, "mlp_out": moved, "out": x + moved}
        return x + moved

    def _ahead(self, layer: int) -> Record:
        """What the layer about to run would show, beside the main path."""
        record = Record()
        self._think(layer, record, self._attend(layer, record))
        return record

    def _masked(self, layer: int) -> Tensor | None:
        """What is added to the logits of a layer."""
        seen = None if self.stack.window is None else self.stack.window(layer, self.sequence)
        if seen is None:
            return self.mask
        lowest = torch.finfo(self.sequence.hidden.dtype).min
        hidden = torch.where(seen, 0.0, lowest).to(self.sequence.hidden.dtype)
        return hidden if self.mask is None else (hidden + self.mask).clamp(min=lowest)

    def _stages(self, layer: int, at: Site) -> list[Stage]:
        return [s for s in self.stages if (s.stack, s.layer, s.at) == (self.stack.name, layer, at)]

    def _selected(self, stage: Stage) -> Selection:
        """Ask the reducer, and take what leaves the part."""
        selection = self.reducer.select(self._taps(), stage)
        self.outputs.update(selection.outputs)
        self.following.update(selection.state)
        return selection

    def _act(self, layer: int, at: Site = "after") -> None:
        for stage in self._stages(layer, at):
            selection = self._selected(stage)
            places = self.sequence.positions  # of several axes: the family's, they stay
            one_axis = places is not None and places.dim() == len(self.sequence.hidden.shape[:2])
            renumber = self.stack.name == "decoder" and self.reducer.positions == "renumber" and one_axis
            after = cut(self.sequence, stage, selection, renumber=renumber)
            if stage.keep is None and selection.key_bias is None:
                self.sequence = after  # nothing moved: what was recorded stays good
            else:
                self._enter(layer, after, at)

    def _taps(self) -> RecordedTaps:
        return RecordedTaps(
            sequence=self.sequence,
            records=self.records,
            project=self._project,
            mask=None if self.sequence.valid is None else self._visible,
            window=self._window,
            shape=self.shape,
            carry=self.sequence.carry,
            state=self.state,
            inputs=self.inputs,
            align=self.align,
            rope=self.rope,
            norm=self.stack.norm,
            ahead=self._ahead if self.stack.blocks else None,
        )

    def _window(self, layer: int) -> Tensor | None:
        """Which rows a layer lets see each other, whoever sees to it."""
        return None if self.stack.window is None else self.stack.window(layer, replace(self.sequence, whole=False))

    def _visible(self, places: Tensor) -> Tensor:
        assert self.sequence.valid is not None
        return visible(self.sequence.valid, places)

    def _project(self, layer: int, rope: bool) -> Tape:  # noqa: FBT001 - the callback's own shape
        """q, k, v of a layer beside the main path; identity tables give them before rotation."""
        block, tape = self.stack.blocks[layer], Tape()
        if layer == max(self.records) + 1:
            source = self.sequence.hidden
        elif "in" in self.records.get(layer, Record()).points:
            source = self.records[layer].points["in"]
        else:
            raise ValueError(f"layer {layer} ran before the last cut or has not run; carry scores instead")
        if not rope:
            return unturned(block, source, self.rope)
        block.attention(block.norm1(source), self._masked(layer), self.rope, tape)
        return tape
