"""The PyTorch reference: the stock Hugging Face model in fp32, cut by hooks; it shares only the reducer's maths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from exporter.family import Family
from exporter.laid import Laid
from exporter.line import Line
from exporter.plan import picture_cuts
from exporter.prompting import Prompting
from exporter.reducer import Reducer, Stage, StateSpec
from exporter.surgeon import Surgeon
from exporter.surgeon_caches import Caches

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
    """Logits of a prompt's last row and every row behind it, and by layer the tokens of each span in its cache."""

    logits: Tensor  # [n,V]
    kept: dict[int, Tensor]


@dataclass
class Reference:
    """Runs one prompt at a time, without cache: slow, plain, independent.

    `forced` `[V,1,k]` are indices for each view to use instead of those that the reducer finds. `prompts` are the
    engines' prefill parts, `images` the pictures that they have spans for; where spans are prompts, a prompt is padded
    to the length of one part, as engines do it.
    """

    family: Family
    reducer: Reducer
    stages: tuple[Stage, ...]
    forced: dict[Stage, Tensor] = field(default_factory=dict)
    prompts: tuple[Prompting, ...] = ()
    steps: tuple[Stage, ...] = ()
    states: tuple[StateSpec, ...] = ()
    images: int = 1

    @property
    def uncut(self) -> bool:
        """Whether all of a picture reaches the decoder."""
        return not picture_cuts(self.stages)

    @property
    def positions(self) -> str:
        """How kept tokens are numbered."""
        return self.family.positions or self.reducer.entry

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
            Line((0,), count, count, origin[None], carry=carry),
            inputs=inputs,
            forced={stage: forced[0] for stage, forced in self.forced.items() if stage.stack == "projected"},
        )
        embeds = projected.act(-1, rows[None])
        kept = projected.line.origin
        if self.uncut:
            embeds, kept = self.family.complete(embeds, kept)
        found = {name: values[0, 0] for name, values in projected.line.carry.items()}
        scores = looks[0].scores if len(looks) == 1 else {}
        mixed = looks[0].mixed or projected.mixed
        return Sight(embeds[0], kept[0], found, scores | projected.scores, looks[0].outputs | projected.outputs, mixed)

    def _look(self, view: Tensor, inputs: Mapping[str, Tensor], forced: dict[Stage, Tensor]) -> Surgeon:
        """One view through the stock tower, cut on its way."""
        seen, prefix, unit = self.family.seen, self.family.prefix, self.family.unit
        length = prefix + seen * unit
        places = None if self.family.packed is None else torch.arange(length)
        inputs = {**inputs, "pixels": view} if "pixels" in self.reducer.needs else inputs
        tower = self._surgeon(
            "tower", Line.of((prefix,), seen, length, unit=unit, positions=places), inputs=inputs, forced=forced
        )
        with tower.at_work():
            self.family.stock_tower(view)
        return tower

    def _in_order(self, looks: list[Surgeon]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """All views' rows behind the projector, their patch numbers, what they carry: one list."""
        shape, unit = self.family.shape(1), self.family.unit
        rows, marks = list[Tensor](), list[Tensor]()
        pooling = self.family.pooling
        lines = [look.line.adopt() if self.uncut and self.family.keeps_cls else look.line for look in looks]
        for number, (look, line) in enumerate(zip(looks, lines, strict=True)):
            first = line.starts[0]
            left = look.results[shape.tower_last][:, first : first + line.width * unit]
            rows.append(self.family.projector(left)[0])
            origin = line.origin[0]
            if pooling is not None:
                rows[-1], origin = pooling @ rows[-1], torch.arange(len(pooling))
                carry = {name: values @ pooling.T for name, values in line.carry.items()}
                lines[number] = replace(line, carry=carry)
            marks.append(origin)
        kept = torch.stack(marks)[None]
        order = self.family.stitch(kept)
        place = torch.arange(sum(map(len, rows))) if order is None else order[0]
        carried = {n: torch.cat([line.carry[n] for line in lines], -1)[..., place] for n in lines[0].carry}
        return torch.cat(rows)[place], self.family.numbers(kept).flatten()[place], carried

    def words(self, ids: list[int]) -> dict[str, Tensor]:
        """What a method may read of the prompt `ids`, if it reads any."""
        if "text" not in self.reducer.needs:
            return {}
        text = torch.tensor([[number for number in ids if number not in self.family.widths.placeholders]])
        return {"text": self.family.token_embeddings(text).detach(), "text_mask": torch.ones_like(text) > 0}

    @torch.no_grad()
    def read(
        self, ids: list[int], sights: list[Sight], generated: list[int], bucket: int = 0, caches: Caches | None = None
    ) -> Reading:
        """A prompt (one placeholder a picture) and what was generated after it, in one pass over all rows.

        Args:
            ids: the prompt.
            sights: its pictures.
            generated: tokens behind it.
            bucket: the prefill part's length, where spans are prompts; if not given, the shortest that is enough.
            caches: what an earlier call with fewer of the same tokens found out.
        """
        laid = self._lay_out(ids, sights, bucket)
        caches = caches or self.caches(laid)
        for count in self._passes(caches, len(generated)):
            decoder, logits = self._pass(laid, generated[:count], caches)
            if self.steps and count == len(caches.states):
                caches.passed(decoder.following)
        own = decoder.line
        return Reading(torch.cat([logits[own.last : own.last + 1], logits[own.prompt :]]), decoder.origins)

    def caches(self, laid: Laid) -> Caches:
        """What is known of a prompt's caches before it was read."""
        shape = self.family.shape(self.images).flat(laid.width)
        return Caches(self.family, self.reducer, shape, self.steps, self.states)

    def _passes(self, caches: Caches, count: int) -> list[int]:
        """How many generated rows each pass has: what later rows find may be known only when earlier ones are over."""
        if self.steps:
            return [*range(min(len(caches.states), count), count + 1)]
        late = any(stage.since is not None for stage in self._decoder_stages(0))
        return [0, count] if late and not caches.alive else [count]

    def _pass(self, laid: Laid, generated: list[int], caches: Caches) -> tuple[Surgeon, Tensor]:
        """The whole sequence through the stock decoder."""
        axes, count = self.family.axes, len(generated)
        parts = [laid.rows]
        if generated:
            parts.append(self.family.token_embeddings(torch.tensor(generated)))
        hidden = torch.cat(parts)[None]
        behind = (laid.following + torch.arange(count)).expand(axes, -1)
        numbered = torch.cat([laid.positions, behind], 1)
        numbered = numbered[0] if axes == 1 else numbered
        line = Line.of(
            laid.starts,
            laid.width,
            len(laid.rows),
            positions=numbered,
            carry=laid.carry,
            valid=None if bool(laid.valid.all()) else torch.cat([laid.valid, torch.ones(count, dtype=torch.bool)]),
            rows=torch.arange(hidden.shape[1]),
        )
        decoder = self._surgeon(
            "decoder",
            line,
            stages=self._decoder_stages(laid.bucket),
            shape=caches.shape,
            state=caches.read_by("prefill", caches.fresh),
            caches=caches,
        )
        with decoder.at_work():
            logits = self.family.stock_logits(hidden, numbered[None] if axes == 1 else numbered[:, None])[0]
        return decoder, logits

    @property
    def _always(self) -> bool:
        """Whether something is done to prompts without pictures, too: then all have equally many spans."""
        lasting = bool(self.steps or self.states) or not self.prompts[-1].tokens
        return lasting or any(stage.at == "kv" for stage in self.stages)

    def _decoder_stages(self, bucket: int) -> tuple[Stage, ...]:
        found = [each.stages for each in self.prompts if each.whole and bucket in {0, each.tokens}]
        return found[0] if found else self.stages

    def _lay_out(self, ids: list[int], sights: list[Sight], bucket: int) -> Laid:
        """The prompt's rows, and what stands behind them."""
        starts, parts, positions, place = list[int](), list[Tensor](), list[Tensor](), 0
        waiting, keep, axes = iter(sights), self.positions == "keep", self.family.axes
        for number in ids:
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
        width = len(sights[0].filled().embeds) if sights else 0
        names = sights[0].carry if sights else {}
        carry = {name: torch.stack([sight.filled().carry[name] for sight in sights])[None] for name in names}
        rows, numbered = torch.cat(parts), torch.cat(positions, 1)
        laid = Laid(rows, numbered, torch.ones(len(rows), dtype=torch.bool), tuple(starts), width, place, carry)
        whole = [each.tokens for each in self.prompts if each.whole]
        if whole:
            bucket = bucket or min(size for size in whole if size >= len(rows))
            return replace(laid.padded(bucket), starts=(0,), width=bucket, carry={}, bucket=bucket)
        if self.prompts and self._always:
            return laid.dummies(self.images - len(starts), self.prompts[-1].tokens)
        return laid

    def generate(
        self, ids: list[int], sights: list[Sight], steps: int, stop: tuple[int, ...], bucket: int = 0
    ) -> tuple[list[int], Tensor]:
        """Greedy tokens, and the logits each was chosen from `[n,V]`; every step reads everything again."""
        tokens, logits = list[int](), list[Tensor]()
        caches = self.caches(self._lay_out(ids, sights, bucket))
        silent = torch.tensor(self.family.widths.placeholders, dtype=torch.int64)  # for pictures that there are not
        while len(tokens) < steps and not (tokens and tokens[-1] in stop):
            logits.append(self.read(ids, sights, tokens, bucket, caches).logits[-1])
            tokens.append(int(logits[-1].index_fill(0, silent, -torch.inf).argmax()))
        return tokens, torch.stack(logits)

    def _surgeon(self, stack: str, line: Line, **kwargs: Any) -> Surgeon:
        return Surgeon(self.family, self.reducer, kwargs.pop("stages", self.stages), stack, line, **kwargs)
