"""What every part is made of: ports with meanings, the job they serve, the module that is traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from exporter.caches import Group
from exporter.family import Family
from exporter.masks import last_place
from exporter.plan import picture_cuts
from exporter.reducer import Reducer, Shape, Stage, StateSpec
from exporter.select import gather_rows
from exporter.stack import Stack, Walk

FLOAT = "float"  # a port in the part's own precision
DTYPES = {torch.int64: "int64", torch.int32: "int32", torch.bool: "bool"}


@dataclass(frozen=True)
class Port:
    """One input or output: axis names are dynamic (`past+tokens` is their sum), numbers are static."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class Job:
    """What every part of one export is built from.

    `images` spans stand in a prompt of a cut decoder; `steps` and `states` are the reducer's, see there.
    """

    family: Family
    reducer: Reducer
    stages: tuple[Stage, ...]
    images: int = 1
    steps: tuple[Stage, ...] = ()
    states: tuple[StateSpec, ...] = ()

    @property
    def uncut(self) -> bool:
        """Whether all of a picture reaches the decoder."""
        return not picture_cuts(self.stages)

    @property
    def shape(self) -> Shape:
        """The geometry of a picture."""
        return self.family.shape(self.images)

    def walk(self, stack: Stack, shape: Shape | None = None, **start: object) -> Walk:
        """A sequence on its way through one stack of this job."""
        return Walk(stack, self.reducer, self.stages, shape or self.shape, **start)  # type: ignore[arg-type]


@dataclass
class Found:
    """What is known of a part once it has been traced; `facts` is JSON-able and differs from part to part."""

    outputs: tuple[Port, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


class Part(nn.Module):
    """A traced graph: `inputs` are known beforehand, what is `found` once it has been traced.

    Tracing puts a module's own attributes back as they were; an object that they refer to keeps what it learns.
    """

    name: str
    inputs: tuple[Port, ...]

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job, self.family, self.model, self.found = job, job.family, job.family.model, Found()

    def given(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The inputs by name."""
        return {port.name: tensor for port, tensor in zip(self.inputs, tensors, strict=True)}

    def finish(self, named: Mapping[str, Tensor], *ports: Port) -> tuple[Tensor, ...]:
        """Return tensors in order and remember their ports; what has none is the method's own output."""
        known = {port.name: port for port in ports}
        named = {name: value if name in known else _exact(value) for name, value in named.items()}
        self.found.outputs = tuple(known.get(name) or _own(name, value) for name, value in named.items())
        return tuple(named.values())

    def last_logits(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """`[B,1,V]`: logits of each sequence's last valid row; a row without any uses its first."""
        return self.family.head(gather_rows(hidden, last_place(valid)))

    def place_axes(self, rows: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """The shape of position ids: several numbers a token come first."""
        return rows if self.family.axes == 1 else (self.family.axes, *rows)

    def places(self, position_ids: Tensor) -> Tensor:
        """Position ids as stacks take them: `[B,T]`, or `[B,T,axes]`."""
        return position_ids if self.family.axes == 1 else position_ids.movedim(0, -1)

    @property
    def logits_port(self) -> Port:
        """The logits' port."""
        return Port("logits", FLOAT, ("batch", 1, self.family.widths.vocab), "of the last new token")

    def cache_ports(self, groups: tuple[Group, ...], word: str, axes: Sequence[int | str]) -> list[Port]:
        """Key and value ports of all layers, `axes` says how many slots those of each group have."""
        widths = self.family.widths
        ports = []
        for group, axis in zip(groups, axes, strict=True):
            shape = ("batch", widths.kv_heads, axis, widths.head_dim)
            for layer in group.layers:
                names = {kind: f"{word}.{layer}.{kind}" for kind in ("key", "value")}
                ports += [Port(name, FLOAT, shape, f"{kind}s of layer {layer}") for kind, name in names.items()]
        return ports

    def state_ports(self, part: str) -> list[Port]:
        """The state tensors that a part reads."""
        made = "from the call before"
        return [Port(f"state.{s.name}", s.dtype, ("batch", *s.shape), made) for s in self.job.states if part in s.reads]

    def state_of(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State tensors by name."""
        return {name.removeprefix("state."): value for name, value in given.items() if name.startswith("state.")}


def mark(group: int, *, split: bool) -> str:
    """What tells the groups of a split decoder apart in names and axes."""
    return f".{group}" if split else ""


def _exact(value: Tensor) -> Tensor:
    """A method's own output: scores and flags leave in fp32 whatever the part computes in."""
    return value.float() if value.is_floating_point() else value


def _own(name: str, value: Tensor) -> Port:
    static = tuple(size if isinstance(size, int) else "" for size in value.shape[1:])
    return Port(name, DTYPES.get(value.dtype, "float32"), ("batch", *static), "made by the method")
