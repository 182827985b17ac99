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
from exporter.reference import Reference, Sight


@dataclass(frozen=True)
class Witness:
    """The reference for engines of one precision and form of picture.

    `groups` holds the first layer of each decoder layer group.
    """

    draft: Draft
    reference: Reference
    groups: list[int]
    dtype: str

    def sight(self, picture: Path, case: Case, kept: Tensor) -> tuple[Sight, Sight]:
        """What the reference sees by itself, and with the engines' own indices.

        16-bit engines may keep other tokens than fp32 where scores are close; what follows is compared on equal terms,
        where it is clear which cut the indices belong to.
        """
        pixels = self.reference.family.stock_pixels(self.draft.checkpoint.dir, picture)
        words = self.reference.words(case.ids)
        if self.draft.clip is not None:
            with torch.no_grad():
                words |= read(self.reference.family.clip, self.draft.clip, case.question)
        free = self.reference.see(pixels, words)
        if self.dtype == "fp32" or not self.single_cut or torch.equal(kept, free.kept):
            return free, free
        cut = next(stage for stage in self.reference.stages if stage.keep is not None)
        return free, replace(self.reference, forced={cut: kept[None]}).see(pixels, words)

    @property
    def single_cut(self) -> bool:
        """Whether one plain cut of the whole picture leads from all patches to the kept ones."""
        cuts = [stage for stage in self.reference.stages if stage.stack != "decoder" and stage.keep is not None]
        whole = self.reference.family.form.views == 1 or (cuts and cuts[0].stack == "projected")
        return len(cuts) == 1 and bool(whole) and not (cuts[0].extra or cuts[0].cls or cuts[0].blanks)

    def tensors(self, case: Case, free: Sight, seen: Sight) -> dict[str, Tensor]:
        """Everything to compare; a decoder cut has the number of the layer group that begins behind it."""
        tokens, logits = self.reference.generate(case.ids, [seen], STEPS, self.draft.facts.eos_token_ids)
        found = {"free_kept": free.kept, "embeds": seen.embeds, "logits": logits, "tokens": torch.tensor(tokens)}
        if self.single_cut and free.scores:
            found["scores"] = list(free.scores.values())[-1][0]
        cuts = self.reference.read(case.ids, [seen], []).kept
        numbered = {self.groups.index(s.layer + 1): kept for s, kept in cuts.items() if s.layer + 1 in self.groups}
        return found | {f"kept_indices.{number}": kept for number, kept in numbered.items()}


def save_reference(witnesses: Sequence[Witness], cases: Sequence[Case], found: Run, folder: Path) -> None:
    """Write reference.DTYPE.safetensors: every tensor of every case, as `CASE/NAME`; a witness for each form."""
    tensors, sights = dict[str, Tensor](), dict[tuple[str, str], tuple[Sight, Sight]]()
    for number, case in enumerate(cases):
        witness = witnesses[found.forms[number]]
        seen = (case.picture, case.question if witness.reference.reducer.needs & {"text", "clip"} else "")
        if seen not in sights:
            sights[seen] = witness.sight(folder / case.picture, case, torch.from_numpy(found.kept[number]))
        for name, value in witness.tensors(case, *sights[seen]).items():
            tensors[f"{number}/{name}"] = value.clone().contiguous()
    path = folder / f"reference.{witnesses[0].dtype}.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)  # the library leaves it to its owner alone
