"""Pixels to the rows that a picture keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.parts.base import FLOAT, Job, Part, Port
from exporter.select import gather_rows
from exporter.sequence import Sequence, adopt
from exporter.stack import Stack, Walk

KEPT = "place of each row in the uncut picture; -1: merged or made; -2: an empty slot"


class VisionPart(Part):
    """Tower, cut, projector, cut; the tower sees crops or frames one by one, what follows sees them as one list."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.name = job.family.form.part
        ports = [Port("pixel_values", FLOAT, ("batch", *job.family.pixels), "prepared pictures")]
        if "text" in job.reducer.needs:
            words = ("batch", "words")
            width = job.family.widths.hidden
            ports.append(Port("text_embeds", FLOAT, (*words, width), "embeddings of the prompt without its pictures"))
            ports.append(Port("text_mask", "int64", words, "1 where there is a token"))
        if "clip" in job.reducer.needs:
            segments = ("batch", "segments")
            ports.append(Port("clip_text", FLOAT, (*segments, job.family.clip_width), "the question's, from part text"))
            ports.append(Port("clip_mask", "int64", segments, "1 where there is a segment"))
        if "frame_scores" in job.reducer.needs:
            views = job.family.form.views
            ports.append(Port("frame_scores", "float32", ("batch", views), "how much each frame bears on the question"))
        self.inputs = tuple(ports)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`image_embeds [B,K,D]` and `kept_indices [B,K]`, then what the method adds."""
        given = self.given(tensors)
        inputs = {name: given[port] for name, port in _FED.items() if port in given}
        inputs |= {name: mask > 0 for name, mask in inputs.items() if name.endswith("_mask")}
        tower = self._tower(given["pixel_values"], inputs)
        joined = join(self.job, tower.sequence)
        projected = self.job.walk(Stack("projected"), sequence=joined, inputs=inputs, align=self.family.aligned)
        last = projected.run(0)
        carry = last.carry if any(stage.stack == "decoder" for stage in self.job.stages) else {}
        self.found.facts["carried"] = list(carry)
        rows, kept = last.hidden, last.origin[:, 0]
        if self.job.uncut:
            rows, kept = self.family.complete(rows, kept)
        named = {"image_embeds": rows, "kept_indices": kept}
        named |= {f"carry.{name}": values[:, 0].float() for name, values in carry.items()}
        width, count = rows.shape[2], ("batch", rows.shape[1])
        self.found.facts["tokens"] = rows.shape[1]
        views = self.family.form.views
        seen = tower.outputs if views == 1 else {n: by_view(v, views) for n, v in tower.outputs.items()}
        return self.finish(
            named | seen | projected.outputs,
            Port("image_embeds", FLOAT, (*count, width), "rows that replace a picture's places"),
            Port("kept_indices", "int64", count, KEPT),
            *(Port(f"carry.{name}", "float32", count, "for the prefill part") for name in carry),
        )

    def _tower(self, pixel_values: Tensor, inputs: dict[str, Tensor]) -> Walk:
        family, shape = self.family, self.family.shape(1)
        hidden = family.patch_embeddings(pixel_values)
        origin = torch.arange(family.seen).expand(hidden.shape[0], 1, -1)
        places = torch.arange(hidden.shape[1]).expand(hidden.shape[0], -1) if family.tower.rotary else None
        start = Sequence(hidden, family.prefix, family.seen, origin, positions=places, unit=family.unit, whole=True)
        each = {name: values.repeat_interleave(shape.views, 0) for name, values in inputs.items()}
        if "pixels" in self.job.reducer.needs:
            each["pixels"] = pixel_values.flatten(0, -4)
        walk = self.job.walk(family.tower, sequence=start, inputs=each, align=family.aligned)
        walk.run(shape.tower_last + 1)
        if self.job.uncut and family.keeps_cls:
            walk.sequence = adopt(walk.sequence)
        return walk


_FED = {name: name for name in ("text_mask", "clip_text", "clip_mask", "frame_scores")} | {"text": "text_embeds"}


def by_view(values: Tensor, views: int) -> Tensor:
    """`[B*V,...]` as `[B,V,...]`."""
    return values.reshape(-1, views, *values.shape[1:])


def join(job: Job, seen: Sequence) -> Sequence:
    """All views of a picture behind the projector, as one span: `[B*V,...]` to `[B,V*k,...]`."""
    family, views = job.family, job.family.form.views
    rows = family.projector(seen.span_of(seen.hidden)[:, 0].flatten(1, 1 if family.unit == 1 else 2))
    kept, carried = by_view(seen.origin[:, 0], views), {name: v[:, 0] for name, v in seen.carry.items()}
    if (pooling := family.pooling) is not None:
        rows = pooling.to(rows.dtype) @ rows
        kept = torch.arange(len(pooling)).expand(*kept.shape[:2], -1)
        carried = {name: values.float() @ pooling.T for name, values in carried.items()}
    origin = family.numbers(kept).flatten(1)
    order = family.stitch(kept)

    def one_list(values: Tensor) -> Tensor:
        flat = by_view(values, views).flatten(1, 2)
        return flat if order is None else gather_rows(flat, order)

    carry = {name: one_list(values)[:, None] for name, values in carried.items()}
    origin = origin if order is None else gather_rows(origin, order)
    return Sequence(one_list(rows), 0, origin.shape[1], origin[:, None], carry=carry)
