"""Hooks that cut one sequence on its way through stock Hugging Face layers, as research code does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from exporter.eager_taps import EagerTaps, Seen
from exporter.family import Family
from exporter.reducer import Reducer, Selection, Site, Stage


@dataclass
class Surgeon:
    """One sequence (batch 1) in one stack.

    `starts` and `width` place the images' tokens; `prompt` rows exist when a selection is made (tokens generated later
    stand behind them and only move along). `forced` gives indices to use instead of those the reducer finds. Rows are
    in the picture's order here, whatever the stock modules do with them. `positions` is `[S]` or `[axes,S]`.
    """

    family: Family
    reducer: Reducer
    stages: tuple[Stage, ...]
    stack: str
    starts: tuple[int, ...]
    width: int
    prompt: int
    positions: Tensor | None = None
    carry: dict[str, Tensor] = field(default_factory=dict)  # [1,I,width]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    unit: int = 1  # rows that make one token of a span
    forced: dict[Stage, Tensor] = field(default_factory=dict)
    origin: Tensor | None = None  # [I,width]
    bias: Tensor | None = None
    scores: dict[Stage, Tensor] = field(default_factory=dict)
    kept: dict[Stage, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    mixed: bool = False  # whether rows were merged

    def __post_init__(self) -> None:
        self.layers: list[Any] = list(self.family.layers(self.stack)) if self.stack != "projected" else []
        self.seen: dict[int, Seen] = {}  # since the last cut
        self.results: dict[int, Tensor] = {}  # what each layer handed on, cut
        self.kwargs: dict[str, Any] = {}  # of the last layer, as the stock model gave them
        self.dry = False
        self.packed = self.family.packed if self.stack == "tower" else None
        if self.origin is None:
            self.origin = torch.arange(self.width).expand(len(self.starts), -1)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Hooks in place for the duration."""
        with ExitStack() as hooks:
            for number, layer in enumerate(self.layers):
                for handle in (
                    layer.register_forward_pre_hook(self._before(number), with_kwargs=True),
                    _attention_of(layer).register_forward_hook(self._attention(number), with_kwargs=True),
                    layer.mlp.register_forward_hook(self._mlp(number)),
                    layer.register_forward_hook(self._after(number)),
                ):
                    hooks.callback(handle.remove)
            yield

    def act(self, layer: int, hidden: Tensor, at: Site = "after") -> Tensor:
        """Run the stages behind `layer` (-1: before the first), or in its middle, on `hidden` `[1,S,C]`."""
        if layer < 0:
            self.seen = {layer: Seen({"out": hidden})}
        for stage in self._stages(layer, at):
            hidden = self._stage(stage, hidden)
        return hidden

    def _stages(self, layer: int, at: Site) -> list[Stage]:
        if not self.starts:  # text alone is never cut
            return []
        return [s for s in self.stages if (s.stack, s.layer, s.at) == (self.stack, layer, at)]

    def _before(self, number: int) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden = args[0] if self.dry else self._enter(args[0])
            hidden = self.act(-1, hidden) if number == 0 and not self.dry else hidden
            named = dict(zip(list(signature(layer.forward).parameters)[1:], args[1:], strict=False))
            self.kwargs = kwargs | named
            self.seen[number] = Seen({"in": hidden})
            return (self._leave(hidden),), self._adapted(number, hidden, self.kwargs)

        return hook

    def _after(self, number: int) -> Callable[..., Any]:
        def hook(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
            out, points = self._enter(out), self.seen[number].points
            points["mid"] = points["in"] + points["attention_out"]
            if not self.dry and self._stages(number, "mid"):  # the second half again, on what is left
                block = getattr(self.family, self.stack).blocks[number]
                middle = self.act(number, points["mid"], "mid")
                out = middle + self._enter(block.mlp(self._leave(block.norm2(middle))))
            self.seen[number].points["out"] = out
            if not self.dry:
                self.results[number] = out = self.act(number, out)
            return self._leave(out)

        return hook

    def _attention(self, number: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Tensor | None:
            seen, x = self.seen[number], args[0] if args else kwargs["hidden_states"]
            rope, seen.mask = kwargs.get("position_embeddings"), kwargs.get("attention_mask")
            if self.packed is None:
                attended, seen.attention = out
                seen.qkv, seen.scale = self.family.eager_qkv(module, x, rope)
            else:
                assert self.positions is not None
                attended, x, cos, sin = map(self._enter, (out, x, *kwargs["position_embeddings"]))
                seen.qkv, seen.scale = self.family.eager_qkv(module, x, (cos, sin))
                seen.mask = self.packed.mask(number, self.positions, self.bias)
                attended = attended if self.bias is None else self.packed.biased(module, seen)
            seen.points |= {"attention_in": x, "attention_out": attended}
            return None if self.packed is None else self._leave(attended)

        return hook

    def _enter(self, rows: Tensor) -> Tensor:
        """Rows of the stock tower in the picture's order, with a batch axis."""
        if self.packed is None:
            return rows
        assert self.positions is not None
        return self.packed.enter(rows, self.positions)

    def _leave(self, rows: Tensor) -> Tensor:
        """The way back."""
        if self.packed is None:
            return rows
        assert self.positions is not None
        return self.packed.leave(rows, self.positions)

    def _mlp(self, number: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            self.seen[number].points |= {"mlp_in": self._enter(args[0]), "mlp_out": self._enter(out)}

        return hook

    def _adapted(self, number: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask and rotary tables for the sequence as it is now."""
        length = hidden.shape[1]
        if self.packed is not None:
            assert self.positions is not None
            return self.packed.kwargs(kwargs, number, self.positions)
        if self.positions is not None:
            rotary = self.family.decoder.rotary
            assert rotary is not None
            future = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
            kwargs = {
                **kwargs,
                "attention_mask": future,
                "position_embeddings": rotary(hidden, self.positions.movedim(-1, 0)[None]),
            }
        if self.bias is not None:
            mask, bias = kwargs.get("attention_mask"), self.bias[None, None, None]
            kwargs = {**kwargs, "attention_mask": bias if mask is None else mask + bias}
        return kwargs

    def _peek(self, hidden: Tensor) -> Callable[[int], Seen]:
        def look(number: int) -> Seen:
            self.dry = True
            self.layers[number](hidden, **self.kwargs)  # in the picture's order: `dry` says so
            self.dry = False
            return self.seen.pop(number)

        return look

    def _stage(self, stage: Stage, hidden: Tensor) -> Tensor:
        taps = EagerTaps(
            self.starts,
            self.width,
            self.prompt,
            dict(self.seen),
            self.family.shape(1),
            self.carry,
            inputs=self.inputs,
            peek=self._peek(hidden),
            align=self.family.aligned,
            unit=self.unit,
        )
        selection = self.reducer.select(taps, stage)
        self.outputs |= selection.outputs
        if selection.scores is not None:
            self.scores[stage] = selection.scores[0]
        if stage.keep is not None:
            hidden = self._cut(stage, selection, hidden)
        self.carry |= selection.carry
        if selection.key_bias is not None:
            self.bias = torch.zeros(hidden.shape[1]) if self.bias is None else self.bias.clone()
            for start, added in zip(self.starts, selection.key_bias[0], strict=True):
                self.bias[start : start + self.width * self.unit] += added.repeat_interleave(self.unit)
        if stage.cls:
            self.adopt()
        if stage.keep is not None or selection.key_bias is not None:
            self.seen = {stage.layer: Seen({"mid" if stage.at == "mid" else "out": hidden})}
        return hidden

    def adopt(self) -> None:
        """The row in front of each span joins it."""
        assert self.origin is not None
        self.starts, self.width = tuple(start - 1 for start in self.starts), self.width + 1
        self.origin = torch.cat([torch.full((len(self.starts), 1), -1), self.origin], 1)
        self.carry = {name: torch.cat([0.0 * v[..., :1], v], -1) for name, v in self.carry.items()}

    @property
    def _renumbers(self) -> bool:
        one_axis = self.positions is not None and self.positions.dim() == 1
        return self.stack == "decoder" and self.reducer.positions == "renumber" and one_axis

    def _cut(self, stage: Stage, selection: Selection, hidden: Tensor) -> Tensor:
        """Walk the sequence span by span and put the new one together."""
        assert self.origin is not None
        self.mixed |= selection.mix is not None
        chosen = self.forced.get(stage, selection.indices[0] if selection.indices is not None else None)
        chosen = torch.zeros(len(self.starts), 0, dtype=torch.int64) if chosen is None else chosen
        width, unit, end = (stage.keep or 0) + stage.extra, self.unit, 0
        within = torch.arange(unit)
        rows, places, starts = list[Tensor](), list[Tensor](), list[int]()
        for number, start in enumerate(self.starts):
            rows.append(hidden[0, end:start])
            places.append(torch.arange(end, start))
            starts.append(sum(len(part) for part in rows))
            tokens = hidden[0, start : start + self.width * unit].reshape(self.width, -1)
            kept = _mixed(tokens, chosen[number], stage, selection, number)
            rows.append(kept.reshape(-1, hidden.shape[2]))
            sources = torch.cat([chosen[number].clamp(min=0), torch.zeros(stage.extra, dtype=torch.int64)])
            places.append((start + sources[:, None] * unit + within).flatten())
            end = start + self.width * unit
        rows.append(hidden[0, end:])
        places.append(torch.arange(end, hidden.shape[1]))
        source = torch.cat(places)
        self.origin = torch.stack([_origins(o, c, stage.extra) for o, c in zip(self.origin, chosen, strict=True)])
        self.kept[stage] = self.origin
        self.carry = {name: _carried(values, chosen, stage.extra) for name, values in self.carry.items()}
        if self.positions is not None:
            self.positions = torch.arange(len(source)) if self._renumbers else self.positions[..., source]
        self.starts, self.width, before = tuple(starts), width, self.width
        if self.bias is not None:
            self.bias = self.bias[source]
        for start in self.starts:  # merged rows begin without a past
            merged_rows = slice(start + (width - stage.extra) * unit, start + width * unit)
            if self.bias is not None:
                self.bias[merged_rows] = 0.0
            if self.positions is not None and not self._renumbers:
                self.positions[..., merged_rows] = 0
        self.prompt -= len(self.starts) * (before - width) * unit
        return torch.cat(rows)[None]


def _mixed(span: Tensor, chosen: Tensor, stage: Stage, selection: Selection, number: int) -> Tensor:
    """The rows of one span that live on, `[keep+extra,C]`."""
    nothing = span.new_zeros(span.shape[1])
    kept = [span[index] if index >= 0 else nothing for index in chosen.tolist()] + [nothing] * stage.extra
    if selection.mix is not None:
        targets = selection.mix_rows or range(len(chosen), len(kept))
        for row, weights in zip(targets, selection.mix[0, number], strict=True):
            kept[row] = weights.to(span.dtype) @ span
    return torch.stack(kept) if kept else span[:0]


def _origins(origin: Tensor, chosen: Tensor, extra: int) -> Tensor:
    """Places in the uncut span; blanks keep their mark, merged rows get -1."""
    return torch.tensor([int(origin[c]) if c >= 0 else c for c in chosen.tolist()] + [-1] * extra, dtype=torch.int64)


def _carried(values: Tensor, chosen: Tensor, extra: int) -> Tensor:
    rows = [torch.cat([v[c.clamp(min=0)], v.new_zeros(extra)]) for v, c in zip(values[0], chosen, strict=True)]
    return torch.stack(rows)[None]


def _attention_of(layer: Any) -> nn.Module:
    """A stock layer's attention, by either of its names."""
    found = layer.self_attn if hasattr(layer, "self_attn") else layer.attn
    assert isinstance(found, nn.Module)
    return found
