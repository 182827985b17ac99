"""The PyTorch reference: the stock Hugging Face model in fp32, cut by hooks; it shares only the reducer's maths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from exporter.family import Family
from exporter.plan import picture_cuts
from exporter.reducer import Reducer, Stage
from exporter.surgeon import Surgeon

NOTHING: Mapping[str, Tensor] = {}
EMPTY = -2  # the patch number of an empty slot


@dataclass
class Sight:
    """What the reference sees in one picture: the kept rows and how it chose them."""

    embeds: Tensor  # [K,D]
    kept: Tensor  # [K]
    carry: dict[str, Tensor]
    scores: dict[Stage, Tensor]
    outputs: dict[str, Tensor]
    mixed: bool = False

    def filled(self) -> Sight:
        """Without empty slots, which nobody attends to."""
        full = self.kept != EMPTY
        carry = {name: values[full] for name, values in self.carry.items()}
        return replace(self, embeds=self.embeds[full], kept=self.kept[full], carry=carry)


@dataclass
class Reading:
    """Logits of every row behind a prompt's end, and the rows each decoder cut kept."""

    logits: Tensor  # [n,V]
    kept: dict[Stage, Tensor]


@dataclass
class Reference:
    """Runs one prompt at a time, without cache and without padding: slow, plain, independent.

    `forced` `[V,1,k]` are indices for each view to use instead of those that the reducer finds.
    """

    family: Family
    reducer: Reducer
    stages: tuple[Stage, ...]
    forced: dict[Stage, Tensor] = field(default_factory=dict)

    @property
    def uncut(self) -> bool:
        """Whether all of a picture reaches the decoder."""
        return not picture_cuts(self.stages)

    @property
    def positions(self) -> str:
        """How kept tokens are numbered."""
        return self.family.positions or self.reducer.positions

    @torch.no_grad()
    def see(self, pixel_values: Tensor, inputs: Mapping[str, Tensor] = NOTHING) -> Sight:
        """One picture `[1,(V,)3,H,W]` through tower, cuts and projector."""
        looks = list[Surgeon]()
        for number, view in enumerate(self.family.stock_views(pixel_values)):
            forced = {stage: each[number] for stage, each in self.forced.items() if stage.stack == "tower"}
            looks.append(self._look(view, inputs, forced))
        rows, origin, carry = self._in_order(looks)
        count = len(origin)
        projected = self._surgeon(
            "projected",
            starts=(0,),
            width=count,
            prompt=count,
            carry=carry,
            origin=origin[None],
            inputs=inputs,
            forced={stage: forced[0] for stage, forced in self.forced.items() if stage.stack == "projected"},
        )
        embeds = projected.act(-1, rows[None])
        assert projected.origin is not None
        kept = projected.origin
        if self.uncut:
            embeds, kept = self.family.complete(embeds, kept)
        found = {name: values[0, 0] for name, values in projected.carry.items()}
        scores = looks[0].scores if len(looks) == 1 else {}
        mixed = looks[0].mixed or projected.mixed
        return Sight(embeds[0], kept[0], found, scores | projected.scores, looks[0].outputs | projected.outputs, mixed)

    def _look(self, view: Tensor, inputs: Mapping[str, Tensor], forced: dict[Stage, Tensor]) -> Surgeon:
        """One view through the stock tower, cut on its way."""
        seen, prefix, unit = self.family.seen, self.family.prefix, self.family.unit
        length = prefix + seen * unit
        places = None if self.family.packed is None else torch.arange(length)
        tower = self._surgeon(
            "tower",
            starts=(prefix,),
            width=seen,
            prompt=length,
            inputs=inputs,
            unit=unit,
            positions=places,
            forced=forced,
        )
        with tower.at_work():
            self.family.stock_tower(view)
        return tower

    def _in_order(self, looks: list[Surgeon]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """All views' rows behind the projector, their patch numbers, what they carry: one list."""
        shape, unit = self.family.shape(1), self.family.unit
        rows, marks = list[Tensor](), list[Tensor]()
        pooling = self.family.pooling
        for look in looks:
            if self.uncut and self.family.keeps_cls:
                look.adopt()
            first = look.starts[0]
            left = look.results[shape.tower_last][:, first : first + look.width * unit]
            rows.append(self.family.projector(left)[0])
            assert look.origin is not None
            origin = look.origin[0]
            if pooling is not None:
                rows[-1], origin = pooling @ rows[-1], torch.arange(len(pooling))
                look.carry = {name: values @ pooling.T for name, values in look.carry.items()}
            marks.append(origin)
        kept = torch.stack(marks)[None]
        order = self.family.stitch(kept)
        place = torch.arange(sum(map(len, rows))) if order is None else order[0]
        carry = {n: torch.cat([look.carry[n] for look in looks], -1)[..., place] for n in looks[0].carry}
        return torch.cat(rows)[place], self.family.numbers(kept).flatten()[place], carry

    def words(self, ids: list[int]) -> dict[str, Tensor]:
        """What a method may read of the prompt `ids`, if it reads any."""
        if "text" not in self.reducer.needs:
            return {}
        text = torch.tensor([[number for number in ids if number not in self.family.widths.placeholders]])
        return {"text": self.family.token_embeddings(text).detach(), "text_mask": torch.ones_like(text) > 0}

    @torch.no_grad()
    def read(self, ids: list[int], sights: list[Sight], generated: list[int]) -> Reading:
        """A prompt (one placeholder a picture) and what was generated after it, in one pass over all rows."""
        starts, parts, positions, place = list[int](), list[Tensor](), list[Tensor](), 0
        waiting, keep, axes = iter(sights), self.positions == "keep", self.family.axes
        for number in [*ids, *generated]:
            if number not in self.family.widths.placeholders:
                parts.append(self.family.token_embeddings(torch.tensor([number])))
                positions.append(torch.tensor([place]).expand(axes, 1))
                place += 1
                continue
            sight = next(waiting).filled()
            starts.append(sum(len(part) for part in parts))
            parts.append(sight.embeds)
            offsets, advance = self.family.places(sight.kept, keep=keep)
            positions.append(place + offsets.expand(axes, -1))
            place += advance
        hidden, numbered = torch.cat(parts)[None], torch.cat(positions, 1)
        numbered = numbered[0] if axes == 1 else numbered
        width = len(sights[0].filled().embeds) if sights else 0
        names = sights[0].carry if sights else {}
        decoder = self._surgeon(
            "decoder",
            starts=tuple(starts),
            width=width,
            prompt=hidden.shape[1] - len(generated),
            positions=numbered,
            carry={name: torch.stack([sight.filled().carry[name] for sight in sights])[None] for name in names},
        )
        with decoder.at_work():
            logits = self.family.stock_logits(hidden, numbered[None] if axes == 1 else numbered[:, None])[0]
        return Reading(logits[decoder.prompt - 1 :], decoder.kept)

    def generate(
        self, ids: list[int], sights: list[Sight], steps: int, stop: tuple[int, ...]
    ) -> tuple[list[int], Tensor]:
        """Greedy tokens, and the logits each was chosen from `[n,V]`; every step reads everything again."""
        tokens, logits = list[int](), list[Tensor]()
        silent = torch.tensor(self.family.widths.placeholders)  # they stand for pictures that there are not
        while len(tokens) < steps and not (tokens and tokens[-1] in stop):
            logits.append(self.read(ids, sights, tokens).logits[-1])
            tokens.append(int(logits[-1].index_fill(0, silent, -torch.inf).argmax()))
        return tokens, torch.stack(logits)

    def _surgeon(self, stack: str, **kwargs: Any) -> Surgeon:
        return Surgeon(self.family, self.reducer, self.stages, stack, **kwargs)
