"""New tokens over a past: the whole decoder where nothing is cut in it, else its second half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from exporter.caches import Group
from exporter.parts.base import FLOAT, Job, Part, Port, mark
from exporter.parts.prefill import PLACES
from exporter.steps import Step

SLOTS = "1 where a cache slot or new row holds a token"
BIAS = "added to the attention logits of each slot"
KEPT = "1 where a slot of the cut cache holds a token"


class DecodePart(Part):
    """One graph for the prompt and for every step; `split` decoders have masks and positions by layer group."""

    kind: ClassVar[type[Step]] = Step

    def __init__(self, job: Job, groups: tuple[Group, ...], *, split: bool = False, biased: bool = False) -> None:
        super().__init__(job)
        self.groups, self.split = groups, split
        self.name = "decode" if split else "decoder"
        self.slotted = job.reducer.positions == "slot"
        self.cut = {stage.layer for stage in job.steps if stage.at == "kv"}
        self.watched = any(stage.at == "after" for stage in job.steps)
        rows = ("batch", "tokens")
        ports = [Port("inputs_embeds", FLOAT, (*rows, job.family.widths.hidden), "rows to append, right-padded")]
        for number, past in enumerate(self._past()):
            name = mark(number, split=split)
            slots = ("batch", self._after(past))
            ports.append(Port(f"attention_mask{name}", "int64", slots, SLOTS))
            if not self.slotted:
                ports.append(Port(f"position_ids{name}", "int64", self.place_axes(rows), "position of each new row"))
            if biased:
                ports.append(Port(f"key_bias{name}", "float32", slots, BIAS))
            ports += self._where(name)
        caches = self.cache_ports(groups, "past_key_values", self._past())
        spans = ("batch", job.images, groups[0].tokens)
        places = (Port(f"state.{PLACES}", "int64", spans, "slot of each token of the spans, -1: gone"),)
        self.inputs = (*ports, *caches, *(places if self.watched else ()), *self.state_ports("decode"))

    def _past(self) -> list[int | str]:
        """Slots before the new rows, by group: constant where every step cuts the cache."""
        named = [f"past{mark(number, split=self.split)}" for number in range(len(self.groups))]
        return [g.fixed or name if g.first in self.cut else name for g, name in zip(self.groups, named, strict=True)]

    def _after(self, past: int | str) -> int | str:
        """Slots with the new rows."""
        return f"{past}+tokens"

    def _where(self, name: str) -> list[Port]:  # noqa: ARG002 - of a group
        """What says where new rows go, if it is not behind the cached ones."""
        return []

    def _enter(self, step: Step, given: Mapping[str, Tensor], name: str, group: Group) -> None:
        """Make a step ready for a group."""
        slots, first = given[f"attention_mask{name}"], given[f"past_key_values.{group.first}.key"]
        torch._check(slots.shape[1] == step.hidden.shape[1] + first.shape[2])  # type: ignore[no-untyped-call] # noqa: SLF001

    def _new(self, given: Mapping[str, Tensor]) -> Tensor:
        """`[B,T]` bool: new rows that hold a token."""
        slots = given[f"attention_mask{mark(0, split=self.split)}"]
        return slots[:, slots.shape[1] - given["inputs_embeds"].shape[1] :] > 0

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`logits [B,1,V]` of each sequence's last new token, and the caches with it."""
        given = self.given(tensors)
        x, state, job = given["inputs_embeds"], self.state_of(given), self.job
        shape = job.shape.flat(self.groups[0].tokens)
        step = self.kind(self.family.decoder, job.reducer, job.steps, shape, x, state.pop(PLACES, None), state)
        for number, group in enumerate(self.groups):
            name = mark(number, split=self.split)
            self._enter(step, given, name, group)
            past = {n: tuple(given[f"past_key_values.{n}.{kind}"] for kind in ("key", "value")) for n in group.layers}
            places = None if self.slotted else self.places(given[f"position_ids{name}"])
            step.run(group, given[f"attention_mask{name}"] > 0, places, given.get(f"key_bias{name}"), past)  # type: ignore[arg-type]
        named = {"logits": self.last_logits(step.hidden, self._new(given))}
        for layer, pair in step.present.items():
            named |= dict(zip((f"present.{layer}.key", f"present.{layer}.value"), pair, strict=True))
        kept = {n: step.kept[g.first].to(torch.int64) for n, g in enumerate(self.groups) if g.first in step.kept}
        named |= {f"kept_mask.{number}": slots for number, slots in kept.items()}
        named |= {f"next_state.{name}": value for name, value in step.following.items()}
        return self.finish(named | step.outputs, self.logits_port, *self._ports())

    def _ports(self) -> list[Port]:
        past = self._past()
        after = [size if isinstance(size, int) else self._after(size) for size in past]
        masks = [Port(f"kept_mask.{number}", "int64", ("batch", size), KEPT) for number, size in enumerate(past)]
        return [*self.cache_ports(self.groups, "present", after), *masks]
