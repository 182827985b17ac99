"""A run of layers over one sequence, with a reducer acting at its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from exporter.attention import Tape
from exporter.masks import attention_mask, visible
from exporter.reducer import Reducer, Shape, Site, StackName, Stage
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
    a layer lets see each other, `[B,1,S,S]` bool or None: all, or the block sees to it (`Sequence.whole`).
    """

    name: StackName
    blocks: tuple[Block, ...] = ()
    rotary: Callable[[Tensor, Tensor], Rope] | None = None
    window: Callable[[int, Sequence], Tensor | None] | None = None


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
    outputs: dict[str, Tensor] = field(default_factory=dict)
    cache: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # keys and values by layer
    lengths: list[Sequence] = field(default_factory=list)  # the sequence each layer's cache belongs to

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
        record = self.records[layer] = Record()
        x = self._attend(layer, record)
        if record.tape.k is not None and record.tape.v is not None:
            self.cache.append((record.tape.k, record.tape.v))
            self.lengths.append(self.sequence)
        self.sequence = replace(self.sequence, hidden=x)
        self._act(layer, "mid")
        record = self.records[layer]  # a new one if tokens were cut
        self.sequence = replace(self.sequence, hidden=self._think(layer, record, self.sequence.hidden))
        self._act(layer)

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

    def _act(self, layer: int, at: Site = "after") -> None:
        for stage in self.stages:
            if (stage.stack, stage.layer, stage.at) != (self.stack.name, layer, at):
                continue
            selection = self.reducer.select(self._taps(), stage)
            self.outputs.update(selection.outputs)
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
            inputs=self.inputs,
            align=self.align,
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
        tables = self.rope
        if tables is not None and not rope:
            tables = (torch.ones_like(tables[0]), torch.zeros_like(tables[1]))
        block.attention(block.norm1(source), self._masked(layer), tables, tape)
        return tape
