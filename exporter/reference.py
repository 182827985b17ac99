"""The PyTorch reference: the stock Hugging Face model in fp32, cut by hooks; it shares only the reducer's maths."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporter.family import Family
from exporter.reducer import Reducer, Stage
from exporter.surgeon import Surgeon


@dataclass
class Sight:
    """What the reference sees in one picture: the kept rows and how it chose them."""

    embeds: Tensor  # [K,D]
    kept: Tensor  # [K]
    carry: dict[str, Tensor]
    scores: dict[Stage, Tensor]
    outputs: dict[str, Tensor]


@dataclass
class Reading:
    """Logits of every row behind a prompt's end, and the rows each decoder cut kept."""

    logits: Tensor  # [n,V]
    kept: dict[Stage, Tensor]


@dataclass
class Reference:
    """Runs one prompt at a time, without cache and without padding: slow, plain, independent."""

    family: Family
    reducer: Reducer
    stages: tuple[Stage, ...]
    forced: dict[Stage, Tensor] = field(default_factory=dict)

    @classmethod
    def load(
        cls, family: type[Family], config: Any, directory: Path, reducer: Reducer, stages: tuple[Stage, ...]
    ) -> Reference:
        """The reference on the checkpoint's own weights, whatever precision the engines use."""
        return cls(family(config, family.reference(directory)), reducer, stages)

    @torch.no_grad()
    def see(self, pixel_values: Tensor) -> Sight:
        """One picture `[1,3,H,W]` through tower, cuts and projector."""
        shape, prefix = self.family.shape(1), self.family.prefix
        length = prefix + shape.patches
        tower = self._surgeon("tower", starts=(prefix,), width=shape.patches, prompt=length)
        with tower.at_work():
            self.family.stock_tower(pixel_values)
        rows = tower.results[shape.tower_last][:, tower.starts[0] : tower.starts[0] + tower.width]
        carried = {"carry": tower.carry, "origin": tower.origin}
        projected = self._surgeon("projected", starts=(0,), width=tower.width, prompt=tower.width, **carried)
        embeds = projected.act(-1, self.family.projector(rows))[0]
        assert projected.origin is not None
        carry = {name: values[0, 0] for name, values in projected.carry.items()}
        scores = tower.scores | projected.scores
        return Sight(embeds, projected.origin[0], carry, scores, tower.outputs | projected.outputs)

    @torch.no_grad()
    def read(self, ids: list[int], sights: list[Sight], generated: list[int]) -> Reading:
        """A prompt (one image token an image) and what was generated after it, in one pass over all rows."""
        token, starts, parts, positions, place = self.family.config.image_token_id, [], [], [], 0
        waiting, keep = iter(sights), self.reducer.positions == "keep"
        for number in [*ids, *generated]:
            if number != token:
                parts.append(self.family.token_embeddings(torch.tensor([number])))
                positions.append(torch.tensor([place]))
                place += 1
                continue
            sight = next(waiting)
            starts.append(sum(len(part) for part in parts))
            parts.append(sight.embeds)
            positions.append(place + (sight.kept if keep else torch.arange(len(sight.embeds))))
            place += self.family.shape(1).patches if keep else len(sight.embeds)
        hidden, numbered = torch.cat(parts)[None], torch.cat(positions)
        width = len(sights[0].embeds) if sights else 0
        names = sights[0].carry if sights else {}
        decoder = self._surgeon(
            "decoder",
            starts=tuple(starts),
            width=width,
            prompt=hidden.shape[1] - len(generated),
            positions=numbered,
            carry={name: torch.stack([sight.carry[name] for sight in sights])[None] for name in names},
        )
        with decoder.at_work():
            logits = self.family.stock_logits(hidden, numbered[None])[0]
        return Reading(logits[decoder.prompt - 1 :], decoder.kept)

    def generate(
        self, ids: list[int], sights: list[Sight], steps: int, stop: tuple[int, ...]
    ) -> tuple[list[int], Tensor]:
        """Greedy tokens, and the logits each was chosen from `[n,V]`; every step reads everything again."""
        tokens, logits = list[int](), list[Tensor]()
        while len(tokens) < steps and not (tokens and tokens[-1] in stop):
            logits.append(self.read(ids, sights, tokens).logits[-1])
            tokens.append(int(logits[-1].argmax()))
        return tokens, torch.stack(logits)

    def _surgeon(self, stack: str, **kwargs: Any) -> Surgeon:
        return Surgeon(self.family, self.reducer, self.stages, stack, forced=self.forced, **kwargs)
