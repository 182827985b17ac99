"""What the reference says to every case, saved for comparison now and later, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engines.parity import STEPS, Case, Run
from exporter.clip_aux import read
from exporter.draft import Draft
from exporter.plan import picture_cuts
from exporter.reducer import Stage
from exporter.reference import Reference, Sight

BLIND = Sight(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), {}, {}, {})  # of a prompt without pictures


@dataclass(frozen=True)
class Witness:
    """The reference for engines of one precision and form of picture.

    `groups` holds the first layer of each decoder layer group; `speaks` is False where only what it sees is compared.
    """

    draft: Draft
    reference: Reference
    groups: list[int]
    dtype: str
    speaks: bool = True

    def sight(self, picture: Path, case: Case, kept: Tensor) -> tuple[Sight, Sight, bool]:
        """What the reference sees by itself; with the engines' own indices; whether values can then be compared.

        16-bit engines may keep other tokens than fp32 where scores are close; what follows is compared on equal terms
        where one plain cut leads to the kept ones. Elsewhere other tokens make other values.
        """
        pixels = self.reference.family.stock_pixels(self.draft.checkpoint.dir, picture)
        words = self.reference.words(case.ids)
        if self.draft.clip is not None:
            with torch.no_grad():
                words |= read(self.reference.family.clip, self.draft.clip, case.question)
        if case.frame_scores is not None:
            words["frame_scores"] = torch.tensor([case.frame_scores])
        free = self.reference.see(pixels, words)
        if self.dtype == "fp32" or (torch.equal(kept, free.kept) and not free.mixed):
            return free, free, True
        if self.cut is None or free.mixed:
            return free, free, False
        return free, replace(self.reference, forced={self.cut: self._by_view(kept)}).see(pixels, words), True

    @property
    def cut(self) -> Stage | None:
        """The one plain cut that leads from all patches to the kept ones, if it is that simple."""
        cuts = picture_cuts(self.reference.stages)
        return cuts[0] if len(cuts) == 1 and not (cuts[0].extra or cuts[0].cls) else None

    @property
    def numbers(self) -> Tensor:
        """`kept_indices` of every token as the one cut counts them: `[V,N]` in the tower, `[1,T]` behind it."""
        assert self.cut is not None
        family, shape = self.reference.family, self.reference.family.shape(1)
        every = torch.arange(shape.patches).expand(1, shape.views, -1)
        numbers, order = family.numbers(every)[0], family.stitch(every)
        if self.cut.stack == "tower":
            return numbers
        return numbers.reshape(1, -1) if order is None else numbers.flatten()[order]

    def _by_view(self, kept: Tensor) -> Tensor:
        """Kept numbers of a picture `[K]` as the cut's own indices, `[V,1,k]`; blanks stay."""
        numbers = self.numbers
        if len(numbers) == 1:
            index = {number: place for place, number in enumerate(numbers[0].tolist())}
            return torch.tensor([index.get(number, number) for number in kept.tolist()])[None, None]
        mine = (numbers[..., None] == kept).any(-1)  # [V,N]
        return torch.stack([view.nonzero()[None, :, 0] for view in mine])

    def tensors(self, case: Case, looked: tuple[Sight, Sight, bool], bucket: int) -> dict[str, Tensor]:
        """Everything to compare; what is in a decoder layer group's caches has the group's number."""
        free, seen, comparable = looked
        sights = [seen] if case.picture else []
        found = {"free_kept": free.kept, "embeds": seen.embeds, "comparable": torch.tensor(comparable)}
        if self.cut is not None and self.cut in free.scores and not self.cut.blanks:
            scores = free.scores[self.cut][0]
            found["scores"] = scores.new_full((int(self.numbers.max()) + 1,), float(scores.min()))
            found["scores"][self.numbers[0]] = scores
        if not self.speaks:
            return found
        tokens, found["logits"] = self.reference.generate(
            case.ids, sights, STEPS, self.draft.facts.eos_token_ids, bucket
        )
        found["tokens"] = torch.tensor(tokens)
        kept = self.reference.read(case.ids, sights, [], bucket).kept
        spans = 1 if bucket else len(sights)  # others hold nothing
        return found | {f"kept_indices.{number}": kept[first][:spans] for number, first in enumerate(self.groups)}


def save_reference(witnesses: Sequence[Witness], cases: Sequence[Case], found: Run, folder: Path) -> None:
    """Write reference.DTYPE.safetensors: every tensor of every case, as `CASE/NAME`; a witness for each form."""
    tensors, sights = dict[str, Tensor](), dict[tuple[str, str], tuple[Sight, Sight, bool]]()
    for number, case in enumerate(cases):
        witness = witnesses[found.forms[number]]
        seen = (case.picture, case.question if witness.reference.reducer.needs & {"text", "clip"} else "")
        if case.picture and seen not in sights:
            sights[seen] = witness.sight(folder / case.picture, case, torch.from_numpy(found.kept[number]))
        looked = sights[seen] if case.picture else (BLIND, BLIND, True)
        for name, value in witness.tensors(case, looked, found.buckets[number]).items():
            tensors[f"{number}/{name}"] = value.clone().contiguous()
    path = folder / f"reference.{witnesses[0].dtype}.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)  # the library leaves it to its owner alone
