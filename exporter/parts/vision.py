"""Pixels to the rows that an image keeps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporter.parts.base import FLOAT, Job, Part, Port
from exporter.sequence import Sequence
from exporter.stack import Stack


class VisionPart(Part):
    """Tower, cut, projector, cut."""

    name = "vision"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.inputs = (Port("pixel_values", FLOAT, ("batch", *job.family.pixels), "prepared pictures"),)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """`image_embeds [B,K,D]` and `kept_indices [B,K]`, then what the method adds."""
        family, shape = self.family, self.family.shape(1)
        hidden = family.patch_embeddings(pixel_values)
        origin = torch.arange(shape.patches).expand(hidden.shape[0], 1, -1)
        start = Sequence(hidden, family.prefix, shape.patches, origin)
        tower = self.job.walk(family.tower, sequence=start)
        seen = tower.run(shape.tower_last + 1)
        rows = family.projector(seen.span_of(seen.hidden)[:, 0])
        projected = self.job.walk(Stack("projected"), sequence=replace(seen, hidden=rows, start=0, bias=None))
        last = projected.run(0)
        self.found.facts["carried"] = list(last.carry)
        named = {"image_embeds": last.hidden, "kept_indices": last.origin[:, 0]}
        named |= {f"carry.{name}": values[:, 0].float() for name, values in last.carry.items()}
        width, kept = last.hidden.shape[2], ("batch", last.width)
        return self.finish(
            named | tower.outputs | projected.outputs,
            Port("image_embeds", FLOAT, (*kept, width), "rows that replace an image's places"),
            Port("kept_indices", "int64", kept, "patch number of each row, row-major; -1: merged"),
            *(Port(f"carry.{name}", "float32", kept, "for the prefill part") for name in last.carry),
        )
