"""Two methods in one export: one before the decoder, one inside it, such as `fastervlm:128+fastv:64`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.plan import tokens_after
from exporter.reducer import Positions, Reducer, Selection, Shape, Stage, StateSpec, Taps


@dataclass(frozen=True)
class Chain(Reducer):
    """`first` cuts pictures, `second` what it left of them (or the prompt) in the decoder, each with its own budget."""

    title = "two methods"
    paper = "see each of them"
    site = "encoder + decoder"

    first: Reducer
    first_keep: str
    second: Reducer
    second_keep: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", self.second.positions)
        object.__setattr__(self, "needs", self.first.needs | self.second.needs)
        for name in ("prompt", "warm_up"):
            object.__setattr__(self, name, getattr(self.second, name))

    @property
    def entry(self) -> Positions:
        """As the first numbers them."""
        return self.first.entry

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The stages of both; of a prompt only the second's."""
        if self.prompt:
            return self.second.plan(shape, Budget(self.second_keep))
        return self.picture_plan(shape, budget)

    def picture_plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The first's stages, and the second's where its spans are pictures."""
        del budget
        cuts = self.first.plan(shape, Budget(self.first_keep))
        _only(cuts, {"tower", "projected"}, "the first of two methods acts before the decoder")
        if self.prompt:
            return cuts
        rest = self.second.plan(shape.flat(tokens_after(cuts, shape)), Budget(self.second_keep))
        _only(rest, {"decoder"}, "the second of two methods acts inside the decoder")
        return (*cuts, *rest)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Whose stage it is."""
        return (self.second if stage.stack == "decoder" else self.first).select(taps, stage)

    def states(self, shape: Shape, budget: Budget) -> tuple[StateSpec, ...]:
        """The second's."""
        del budget
        return self.second.states(shape, Budget(self.second_keep))

    def steps(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The second's."""
        del budget
        return self.second.steps(shape, Budget(self.second_keep))

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        """The second's."""
        return self.second.decode(taps, stage)

    def turns(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The second's."""
        del budget
        return self.second.turns(shape, Budget(self.second_keep))

    def between(self, taps: Taps, stage: Stage) -> Selection:
        """The second's."""
        return self.second.between(taps, stage)

    def trained(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str], shape: Shape) -> Reducer:
        """With the second's weights."""
        return replace(self, second=self.second.trained(tensors, facts, shape))


def _only(stages: tuple[Stage, ...], stacks: set[str], rule: str) -> None:
    if any(stage.stack not in stacks for stage in stages):
        raise UserError(f"--method: {rule}; write it as ENCODER_METHOD:KEEP+DECODER_METHOD:KEEP")
