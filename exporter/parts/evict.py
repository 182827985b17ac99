"""A conversation's caches between two turns: what the method leaves of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from exporter.caches import KV, Group, chosen, filled
from exporter.parts.base import Job, Part, Port
from exporter.parts.decode import KEPT
from exporter.reducer import Reducer, Stage

SLOTS = "1 where a cache slot holds a token"


@dataclass(frozen=True)
class CacheTaps:
    """The taps between two turns (see `exporter.reducer.Taps`)."""

    valid: Tensor  # [B,P] bool
    state: Mapping[str, Tensor]


def left(reducer: Reducer, stage: Stage, taps: CacheTaps, past: KV) -> tuple[KV, Tensor]:
    """One layer's cache behind a stage of `turns`, and which of its slots `[B,K]` hold tokens."""
    indices = reducer.between(taps, stage).indices  # type: ignore[arg-type]
    assert indices is not None
    return chosen(past, indices), filled(taps.valid, indices)


class EvictPart(Part):
    """Caches `past_key_values.*` of any length in, `present.*` of constant length out; keys as they were cached.

    The job's stages are the reducer's `turns`, one for every layer of `groups`. The fact `above` is how many slots of
    one sequence stay untouched: at most so many tokens, and the part changes nothing but their order of slots.
    """

    name = "evict"

    def __init__(self, job: Job, groups: tuple[Group, ...]) -> None:
        super().__init__(job)
        by_layer = {stage.layer: stage for stage in job.stages if stage.at == "kv"}
        self.turns = [[by_layer[layer] for layer in group.layers] for group in groups]
        self.keeps = [stages[0].keep or 0 for stages in self.turns]
        self.groups = groups
        past = [f"past.{number}" for number in range(len(groups))]
        masks = (Port(f"attention_mask.{n}", "int64", ("batch", axis), SLOTS) for n, axis in enumerate(past))
        caches = self.cache_ports(groups, "past_key_values", past)
        self.inputs = (*masks, *caches, *self._states(past))

    def _states(self, past: list[str]) -> Iterator[Port]:
        """States by layer, whose named axis is that layer's cache."""
        for port in self.state_ports("evict"):
            layer = int(port.name.rpartition(".")[2])
            axis = next(name for group, name in zip(self.groups, past, strict=True) if layer in group.layers)
            named = (size if isinstance(size, int) else axis for size in port.shape[1:])
            yield replace(port, shape=("batch", *named))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Caches by layer, the slots that hold tokens, and the slot that the next token takes."""
        given = self.given(tensors)
        state, named, following = self.state_of(given), dict[str, Tensor](), list[Tensor]()
        for number, stages in enumerate(self.turns):
            taps = CacheTaps(given[f"attention_mask.{number}"] > 0, state)
            for stage in stages:
                names = [f"{stage.layer}.{kind}" for kind in ("key", "value")]
                key, value = (given[f"past_key_values.{name}"] for name in names)
                torch._check(taps.valid.shape[1] == key.shape[2])  # type: ignore[no-untyped-call] # noqa: SLF001
                pair, kept = left(self.job.reducer, stage, taps, (key, value))
                named |= dict(zip((f"present.{name}" for name in names), pair, strict=True))
                if stage is stages[0]:
                    named[f"kept_mask.{number}"] = kept.to(torch.int64)
            following.append(named[f"kept_mask.{number}"].sum(1, keepdim=True))
        named["next_position"] = torch.cat(following, 1)
        after = [replace(g, fixed=keep) for g, keep in zip(self.groups, self.keeps, strict=True)]
        self.found.facts |= {"above": min(self.keeps), "groups": [asdict(group) for group in after]}
        return self.finish(named, *self._ports())

    def _ports(self) -> list[Port]:
        masks = [Port(f"kept_mask.{n}", "int64", ("batch", keep), KEPT) for n, keep in enumerate(self.keeps)]
        following = Port("next_position", "int64", ("batch", len(self.groups)), "tokens left, by group")
        return [*self.cache_ports(self.groups, "present", self.keeps), *masks, following]
