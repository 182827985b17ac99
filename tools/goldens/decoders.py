"""Small recorded LLaMA and Qwen2 decoders, run by the project's own walk and steps: what adapters of decoders share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from exporter.attention import Tape, fused
from exporter.caches import KV, Cached, groups_of
from exporter.parts.evict import CacheTaps, left
from exporter.reducer import Grid, Reducer, Shape, Stage
from exporter.sequence import Sequence as Rows
from exporter.stack import Block, Rope, Stack, Walk
from exporter.steps import Step
from tools.golden import Arrays


def config(case: Arrays) -> dict[str, Any]:
    """What a case says of its model."""
    return dict(json.loads(str(case["config"])))


@dataclass
class Decoder:
    """A decoder of LLaMA's make from arrays `w.layers.N.*`; biases where there are some."""

    weights: Mapping[str, Tensor]
    heads: int
    kv_heads: int
    eps: float = 1e-6
    theta: float = 10000.0
    layers: int = field(init=False)

    @classmethod
    def of(cls, case: Arrays, prefix: str = "w.", **sizes: Any) -> Decoder:
        """The model of a case; `prefix` goes before `layers.N`."""
        found = {name.removeprefix(prefix): torch.from_numpy(v) for name, v in case.items() if name.startswith(prefix)}
        return cls({name: values.float() for name, values in found.items()}, **sizes)

    def __post_init__(self) -> None:
        self.layers = 1 + max(int(name.split(".")[1]) for name in self.weights if name.startswith("layers."))

    @property
    def head_dim(self) -> int:
        """d of one head."""
        return self.weights["layers.0.self_attn.q_proj.weight"].shape[0] // self.heads

    def shape(self, tokens: int, grid: Grid | None = None) -> Shape:
        """Geometry for plans."""
        return Shape(
            tokens,
            grid or Grid(1, tokens),
            decoder_layers=self.layers,
            has_cls=False,
            heads=self.heads,
            kv_heads=self.kv_heads,
        )

    @property
    def stack(self) -> Stack:
        """As families declare theirs."""
        blocks = tuple(self._block(layer) for layer in range(self.layers))
        return Stack("decoder", blocks, self.rotary, norm=self.norm, turn=turned)

    def rotary(self, hidden: Tensor, positions: Tensor) -> Rope:
        """cos and sin `[B,S,d]`."""
        width = self.head_dim
        rate = self.theta ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = positions[..., None].float() * rate
        both = torch.cat([angles, angles], -1)
        return both.cos().to(hidden.dtype), both.sin().to(hidden.dtype)

    def norm(self, x: Tensor) -> Tensor:
        """The final RMSNorm."""
        return self._norm(x, "norm")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self.weights[f"{name}.weight"] * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _block(self, layer: int) -> Block:
        own = f"layers.{layer}."

        def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:
            named = (self._linear(x, f"{own}self_attn.{kind}_proj") for kind in "qkv")
            q, k, v = (p.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for p in named)
            assert rope is not None
            out = fused(torch.nn.Module(), turned(q, rope), turned(k, rope), v, mask, self.head_dim**-0.5, tape)[0]
            return self._linear(out.flatten(2), f"{own}self_attn.o_proj")

        def mlp(x: Tensor) -> Tensor:
            gate = silu(self._linear(x, f"{own}mlp.gate_proj"))
            return self._linear(gate * self._linear(x, f"{own}mlp.up_proj"), f"{own}mlp.down_proj")

        return Block(
            lambda x: self._norm(x, f"{own}input_layernorm"),
            attention,
            lambda x: self._norm(x, f"{own}post_attention_layernorm"),
            mlp,
        )


@dataclass
class Played:
    """A prompt and what came after it; `state` is what the last call left."""

    walk: Walk
    hidden: Tensor  # [B,S',C] behind the final norm
    caches: list[Cached]
    state: dict[str, Tensor]
    outputs: dict[str, Tensor]
    decoder: Decoder
    reducer: Reducer
    steps: tuple[Stage, ...] = ()
    span: Tensor | None = None
    slots: list[Tensor] = field(default_factory=list)  # by group, as the last run left them
    places: list[Tensor] = field(default_factory=list)
    past: dict[int, KV] = field(default_factory=dict)  # by layer

    def cache(self) -> dict[str, Tensor]:
        """`k_cache_lN` and `v_cache_lN` of every layer."""
        pairs = {f"k_cache_l{n}": cached.key for n, cached in enumerate(self.caches)}
        return pairs | {f"v_cache_l{n}": cached.value for n, cached in enumerate(self.caches)}

    @property
    def lengths(self) -> Tensor:
        """Slots of each layer."""
        return torch.tensor([cached.key.shape[2] for cached in self.caches])

    def run(self, embeds: Sequence[Tensor], *, more: bool = False) -> list[Tensor]:
        """Rows `[B,T,C]` fed one after another; their final states. `more`: after those of the last run."""
        groups, out = groups_of(self.caches), list[Tensor]()
        heads = [self.caches[group.first] for group in groups]
        if not more:
            self.slots, self.places = [head.valid for head in heads], [head.next_position for head in heads]
            self.past = {n: (cached.key, cached.value) for n, cached in enumerate(self.caches)}
        slots, places, past = self.slots, self.places, self.past
        for x in embeds:
            shape = self.walk.shape
            step = Step(self.decoder.stack, self.reducer, self.steps, shape, x, self.span, self.state)
            new = torch.ones(x.shape[:2], dtype=torch.bool)
            for number, group in enumerate(groups):
                slots[number] = torch.cat([slots[number], new], 1)
                slotted = self.reducer.positions == "slot"
                at = None if slotted else places[number] + torch.arange(x.shape[1])
                bias = heads[number].bias if heads[number].sequence.bias is not None else None
                grown = slots[number].shape[1]
                bias = None if bias is None else torch.nn.functional.pad(bias, (0, grown - bias.shape[1]))
                step.run(group, slots[number], at, bias, past)
                slots[number] = step.kept.get(group.first, slots[number])
                places[number] = places[number] + x.shape[1]
            self.past = past = step.present
            self.state = {**self.state, **step.following}
            out.append(self.decoder.norm(step.hidden))
        return out

    def evict(self, stages: Sequence[Stage]) -> list[Tensor]:
        """Between two runs: the places `[B,Hkv,K]` that the reducer leaves of each layer's cache."""
        found = list[Tensor]()
        for number, group in enumerate(groups_of(self.caches)):
            taps = CacheTaps(self.slots[number], self.state)
            for stage in (stage for stage in stages if stage.layer in group.layers):
                indices = self.reducer.between(taps, stage).indices  # type: ignore[arg-type]
                assert indices is not None
                found.append(indices)
                self.past[stage.layer], self.slots[number] = left(self.reducer, stage, taps, self.past[stage.layer])
        return found


def play(  # noqa: PLR0913 - all that a prompt may come with
    decoder: Decoder,
    reducer: Reducer,
    stages: tuple[Stage, ...],
    embeds: Tensor,
    start: int,
    width: int,
    *,
    steps: tuple[Stage, ...] = (),
    state: Mapping[str, Tensor] | None = None,
    carry: Mapping[str, Tensor] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    grid: Grid | None = None,
) -> Played:
    """A prompt `[1,S,C]` with one span at `start` through the decoder, as a prefill part does it."""
    every = torch.arange(embeds.shape[1]).expand(embeds.shape[:2])
    sequence = Rows(
        hidden=embeds,
        start=start,
        width=width,
        origin=torch.arange(width).expand(1, 1, -1),
        valid=torch.ones(embeds.shape[:2], dtype=torch.bool),
        positions=every,
        carry=carry or {},
        rows=every,
    )
    walk = Walk(decoder.stack, reducer, stages, decoder.shape(width, grid), sequence, inputs or {}, state=state or {})
    last = walk.run(decoder.layers)
    looks = [stage.layer for stage in steps if stage.at == "after"]
    span = walk.caches[looks[0]].span_slots(width) if looks else None
    left = dict(state or {}) | walk.following
    return Played(walk, decoder.norm(last.hidden), walk.caches, left, walk.outputs, decoder, reducer, steps, span)


def turned(x: Tensor, rope: Rope) -> Tensor:
    """`[B,H,n,d]`, rotated as LLaMA does."""
    cos, sin = (table[:, None] for table in rope)
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
