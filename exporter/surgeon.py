"""Hooks that cut one sequence on its way through stock Hugging Face layers, as research code does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exporter.eager_taps import EagerTaps, Seen
from exporter.family import Family
from exporter.line import Line
from exporter.reducer import Reducer, Selection, Shape, Site, Stage
from exporter.surgeon_caches import Caches


class Aside(NamedTuple):
    """What waits while a layer runs on some of the rows: the whole sequence, and where those rows stand in it."""

    line: Line
    hidden: Tensor  # [1,S,C]
    source: Tensor  # [S']
    indices: Tensor  # [1,I,keep]


@dataclass
class Surgeon:
    """One sequence (batch 1) in one stack.

    `forced` gives indices to use instead of those the reducer finds. Rows are in the picture's order here, whatever the
    stock modules do with them. `caches` says what generated rows find of the layers, where that is not all of them.
    """

    family: Family
    reducer: Reducer
    stages: tuple[Stage, ...]
    stack: str
    line: Line
    shape: Shape | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    caches: Caches | None = None
    forced: dict[Stage, Tensor] = field(default_factory=dict)
    scores: dict[Stage, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    following: dict[str, Tensor] = field(default_factory=dict)  # new values of state tensors
    origins: dict[int, Tensor] = field(default_factory=dict)  # [I,width] by layer, of the rows in its cache
    mixed: bool = False  # whether rows were merged

    def __post_init__(self) -> None:
        self.layers: list[Any] = list(self.family.layers(self.stack)) if self.stack != "projected" else []
        self.seen: dict[int, Seen] = {}  # since the last cut
        self.results: dict[int, Tensor] = {}  # what each layer handed on, cut
        self.kwargs: dict[str, Any] = {}  # of the last layer, as the stock model gave them
        self.dry = False
        self.aside: Aside | None = None
        self.packed = self.family.packed if self.stack == "tower" else None

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
        if not self.line.starts:  # text alone is never cut
            return []
        return [s for s in self.stages if (s.stack, s.layer, s.at) == (self.stack, layer, at)]

    def _before(self, number: int) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            named = dict(zip(list(signature(layer.forward).parameters)[1:], args[1:], strict=False))
            self.kwargs = kwargs | named
            hidden = args[0] if self.dry else self._ready(number, self._enter(args[0]))
            self.seen[number] = Seen({"in": hidden})
            return (self._leave(hidden),), self._adapted(number, hidden, self.kwargs)

        return hook

    def _ready(self, number: int, hidden: Tensor) -> Tensor:
        """The rows that a layer runs on."""
        hidden = self.act(-1, hidden) if number == 0 else hidden
        for stage in self._stages(number, "around"):
            hidden = self._part(stage, hidden)
        self.origins[number] = self.line.origin
        self._fill(number, hidden)
        return hidden

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
                self.results[number] = out = self._joined(number, self.act(number, out))
                self._compact(number)
            return self._leave(out)

        return hook

    def _attention(self, number: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
            seen, x = self.seen[number], args[0] if args else kwargs["hidden_states"]
            rope, seen.mask = kwargs.get("position_embeddings"), kwargs.get("attention_mask")
            if self.packed is None:
                attended, seen.attention = out
                seen.qkv, seen.scale = self.family.eager_qkv(module, x, rope)
                if self.caches is not None and not self.dry:
                    attended = self.caches.attend(number, module, seen, self.line, attended)
            else:
                assert self.line.positions is not None
                attended, x, cos, sin = map(self._enter, (out, x, *kwargs["position_embeddings"]))
                seen.qkv, seen.scale = self.family.eager_qkv(module, x, (cos, sin))
                seen.mask = self.packed.mask(number, self.line.positions, self.line.bias)
                attended = attended if self.line.bias is None else self.packed.biased(module, seen)
            seen.points |= {"attention_in": x, "attention_out": attended}
            return (attended, seen.attention) if self.packed is None else self._leave(attended)

        return hook

    def _enter(self, rows: Tensor) -> Tensor:
        """Rows of the stock tower in the picture's order, with a batch axis."""
        if self.packed is None:
            return rows
        assert self.line.positions is not None
        return self.packed.enter(rows, self.line.positions)

    def _leave(self, rows: Tensor) -> Tensor:
        """The way back."""
        if self.packed is None:
            return rows
        assert self.line.positions is not None
        return self.packed.leave(rows, self.line.positions)

    def _mlp(self, number: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            self.seen[number].points |= {"mlp_in": self._enter(args[0]), "mlp_out": self._enter(out)}

        return hook

    def _adapted(self, number: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask and rotary tables for the sequence as it is now."""
        if self.packed is not None:
            assert self.line.positions is not None
            return self.packed.kwargs(kwargs, number, self.line.positions)
        if self.line.positions is not None:
            every = torch.arange(hidden.shape[1])
            unseen = every > every[:, None]
            unseen = unseen if self.line.valid is None else unseen | ~self.line.valid
            lowest = torch.finfo(hidden.dtype).min
            future = torch.zeros(unseen.shape).masked_fill(unseen, lowest)[None, None]
            kwargs = {**kwargs, "attention_mask": future, "position_embeddings": self._rope(hidden)}
        if self.line.bias is not None:
            mask, bias = kwargs.get("attention_mask"), self.line.bias[None, None, None]
            kwargs = {**kwargs, "attention_mask": bias if mask is None else mask + bias}
        return kwargs

    def _rope(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Tables of rotation at the positions as they are now."""
        rotary, positions = self.family.decoder.rotary, self.line.positions
        assert rotary is not None
        assert positions is not None
        return rotary(hidden, positions.movedim(-1, 0)[None])

    def _peek(self, hidden: Tensor) -> Callable[[int], Seen]:
        def look(number: int) -> Seen:
            self.dry = True
            self.layers[number](hidden, **self.kwargs)  # in the picture's order: `dry` says so
            self.dry = False
            return self.seen.pop(number)

        return look

    def _selected(self, stage: Stage, hidden: Tensor, seen: Mapping[int, Seen]) -> Selection:
        """Ask the reducer, and take what leaves the stack."""
        line, decoder = self.line, self.stack == "decoder"
        rope = self._rope(hidden) if decoder and line.positions is not None else None
        taps = EagerTaps(
            line.starts,
            line.width,
            line.prompt,
            dict(seen),
            self.shape or self.family.shape(1),
            line.carry,
            state=self.state,
            inputs=self.inputs,
            peek=self._peek(hidden),
            align=self.family.aligned,
            unit=line.unit,
            marks={name: values[:, : line.prompt] for name, values in line.marks.items()},
            rope=None if rope is None else (rope[0][:, : line.prompt], rope[1][:, : line.prompt]),
            norm=self.family.decoder.norm if decoder else None,
            filled=None if line.valid is None else line.valid[None, : line.prompt],
        )
        selection = self.reducer.select(taps, stage)
        self.outputs |= selection.outputs
        self.following |= selection.state
        if selection.scores is not None:
            self.scores[stage] = selection.scores[0]
        return selection

    def _stage(self, stage: Stage, hidden: Tensor) -> Tensor:
        selection = self._selected(stage, hidden, self.seen)
        if stage.keep is not None:
            self.mixed |= selection.mix is not None
            self.line, hidden, _ = self._cut(stage, selection, hidden)
        self.line = self.line.noted(selection, hidden.shape[1])
        if stage.cls:
            self.line = self.line.adopt()
        if stage.keep is not None or selection.key_bias is not None:
            self.seen = {stage.layer: Seen({"mid" if stage.at == "mid" else "out": hidden})}
        return hidden

    def _cut(self, stage: Stage, selection: Selection, hidden: Tensor) -> tuple[Line, Tensor, Tensor]:
        positions, found = self.line.positions, selection.indices
        none = torch.zeros(len(self.line.starts), 0, dtype=torch.int64)
        chosen = self.forced.get(stage, none if found is None else found[0])
        one_axis = positions is not None and positions.dim() == 1
        renumber = self.stack == "decoder" and self.reducer.positions == "renumber" and one_axis
        return self.line.cut(stage, selection, hidden, chosen, renumber=renumber and stage.at != "around")

    def _part(self, stage: Stage, hidden: Tensor) -> Tensor:
        """Set aside the rows that pass a layer by."""
        selection, line = self._selected(stage, hidden, self.seen), self.line
        assert selection.indices is not None
        self.line, ran, source = self._cut(stage, selection, hidden)
        self.line = self.line.noted(selection, ran.shape[1])
        self.aside = Aside(line, hidden, source, selection.indices)
        self.seen = {stage.layer - 1: Seen({"out": ran})}
        return ran

    def _joined(self, number: int, hidden: Tensor) -> Tensor:
        """The rows that a layer ran on, back among those that passed it by, with what they carry."""
        if self.aside is None:
            return hidden
        line, full, source, indices = self.aside
        carry = dict(line.carry)
        for name, values in self.line.carry.items():
            before = carry.get(name, values.new_zeros(1, *line.origin.shape))
            carry[name] = before.scatter(-1, indices, values)
        self.line, self.aside = replace(line, carry=carry), None
        full = full.index_copy(1, source, hidden)
        self.seen = {number: Seen({"out": full})}
        return full

    def _fill(self, number: int, hidden: Tensor) -> None:
        """Cut the cache of a layer about to run, which the prompt's own rows do not notice."""
        stages = [stage for stage in self._stages(number, "kv") if stage.since is None]
        if not stages:
            return
        assert self.caches is not None
        seen = self._peek(hidden)(number)
        for stage in stages:
            selection = self._selected(stage, seen.points["out"], {**self.seen, number: seen})
            assert selection.indices is not None
            self.caches.picked[number] = selection.indices[0]

    def _compact(self, number: int) -> None:
        """Remember of layers that ran what is alive now: generated rows see no more of them."""
        for stage in self._stages(number, "kv"):
            if stage.since is None:
                continue
            assert self.caches is not None
            assert self.line.rows is not None
            for layer in range(stage.since, number + 1):
                self.caches.alive[layer] = self.line.rows[: self.line.prompt]
                self.origins[layer] = self.line.origin


def _attention_of(layer: Any) -> nn.Module:
    """A stock layer's attention, by either of its names."""
    found = layer.self_attn if hasattr(layer, "self_attn") else layer.attn
    assert isinstance(found, nn.Module)
    return found
