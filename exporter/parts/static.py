"""New tokens into caches of constant length, which no axis of the graph grows with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from exporter.caches import Group
from exporter.parts.base import Job, Port
from exporter.parts.decode import DecodePart
from exporter.static_steps import StaticStep
from exporter.steps import Step

WRITTEN = "the slot that each new row is written to"

Reads = tuple[int, int, tuple[Group, ...]]  # of a prefill part: rows of a span, spans, groups


def capacity(reads: Iterable[Reads], length: int) -> tuple[int, ...]:
    """Slots that each group needs where prompt and answer have at most `length` rows, whichever part read the prompt.

    A span of `tokens` rows has lost some of them in a group; where a cache alone was cut, it has its constant length,
    and all that follows comes behind.
    """
    needed = [[_slots(group, tokens, spans, length) for group in groups] for tokens, spans, groups in reads]
    return tuple(max(each) for each in zip(*needed, strict=True))


def _slots(group: Group, tokens: int, spans: int, length: int) -> int:
    return length - spans * (tokens - group.tokens) if group.fixed is None else length + group.fixed


class StaticDecodePart(DecodePart):
    """As the decode part of a split decoder; attention runs over all slots, masked. Axes are batch and tokens."""

    kind = StaticStep

    def __init__(self, job: Job, groups: tuple[Group, ...], capacity: tuple[int, ...], *, biased: bool = False) -> None:
        self.capacity = capacity
        super().__init__(job, groups, split=True, biased=biased)
        self.found.facts["capacity"] = list(capacity)

    def _past(self) -> list[int | str]:
        return list(self.capacity)

    def _after(self, past: int | str) -> int | str:
        return past

    def _where(self, name: str) -> list[Port]:
        return [Port(f"slots{name}", "int64", ("batch", "tokens"), WRITTEN)]

    def _enter(self, step: Step, given: Mapping[str, Tensor], name: str, group: Group) -> None:
        del group
        assert isinstance(step, StaticStep)
        step.places = given[f"slots{name}"]

    def _new(self, given: Mapping[str, Tensor]) -> Tensor:
        return given["attention_mask.0"].gather(1, given["slots.0"]) > 0
