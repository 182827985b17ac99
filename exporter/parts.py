"""The graphs of one export as modules: their common base, `vision` and `embed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from exporter.family import Family
from exporter.reducer import Reducer, Stage
from exporter.sequence import Sequence
from exporter.stack import Stack, Walk

FLOAT = "float"  # a port in the part's own precision


@dataclass(frozen=True)
class Port:
    """One input or output: axis names are dynamic (`past+tokens` is their sum), numbers are static."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class Job:
    """What every part of one export is built from."""

    family: Family
    reducer: Reducer
    stages: tuple[Stage, ...]
    images: int = 1

    def staged(self, stack: str) -> bool:
        """Whether the reducer acts in this stack."""
        return any(stage.stack == stack for stage in self.stages)


class Part(nn.Module):
    """A traced graph: `inputs` are known beforehand, `outputs` once it has been traced."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.model = family.model

    def finish(self, named: Mapping[str, Tensor], ports: Mapping[str, Port], fallback: str) -> tuple[Tensor, ...]:
        """Return tensors in order and remember their ports; extra ones get the `fallback` meaning."""
        made = []
        for name, value in named.items():
            dtype = {torch.int64: "int64", torch.bool: "bool", torch.int32: "int32"}.get(value.dtype, FLOAT)
            static = tuple(int(s) if isinstance(s, int) else "" for s in value.shape[1:])
            made.append(ports.get(name) or Port(name, dtype, ("batch", *static), fallback))
        self.outputs = tuple(made)
        return tuple(named.values())


class VisionPart(Part):
    """Pixels to the rows that an image keeps."""

    name = "vision"

    def __init__(self, job: Job) -> None:
        super().__init__(job.family)
        self.job, self.carried = job, tuple[str, ...]()
        self.inputs = (Port("pixel_values", FLOAT, ("batch", *job.family.pixels), "prepared pictures"),)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Tower, cut, projector, cut: `image_embeds [B,K,D]` and `kept_indices [B,K]`, then what the method adds."""
        family, shape = self.job.family, self.job.family.shape(1)
        hidden = family.patch_embeddings(pixel_values)
        origin = torch.arange(shape.patches).expand(hidden.shape[0], 1, -1)
        walk = self._walk(family.tower, Sequence(hidden, family.prefix, shape.patches, origin))
        seen = walk.run(shape.tower_last + 1)
        rows = seen.span_of(seen.hidden)[:, 0]
        bias = None if seen.bias is None else seen.span_of(seen.bias)[:, 0]
        projected = self._walk(Stack("projected"), replace(seen, hidden=family.projector(rows), start=0, bias=bias))
        last = projected.run(0)
        self.carried = tuple(last.carry)
        named = {"image_embeds": last.hidden, "kept_indices": last.origin[:, 0]}
        named |= {f"carry.{name}": values[:, 0] for name, values in last.carry.items()}
        named |= walk.outputs | projected.outputs
        embeds = Port(
            "image_embeds",
            FLOAT,
            ("batch", last.width, last.hidden.shape[2]),
            "rows that replace an image's places",
        )
        kept = Port("kept_indices", "int64", ("batch", last.width), "patch number of each row, row-major; -1: merged")
        return self.finish(named, {"image_embeds": embeds, "kept_indices": kept}, "made by the method")

    def _walk(self, stack: Stack, sequence: Sequence) -> Walk:
        return Walk(stack, self.job.reducer, self.job.stages, self.job.family.shape(1).grid, sequence)


class EmbedPart(Part):
    """Token ids, with image rows in the image tokens' places, to decoder inputs."""

    name = "embed"

    def __init__(self, job: Job, tokens: int) -> None:
        super().__init__(job.family)
        self.family = job.family
        self.width = int(job.family.config.text_config.hidden_size)
        self.inputs = (
            Port(
                "input_ids",
                "int64",
                ("batch", "tokens"),
                "prompt, each image token repeated for every row of its image",
            ),
            Port(
                "image_embeds",
                FLOAT,
                ("images", tokens, self.width),
                "rows of all images in order; zeros when there is none",
            ),
        )

    def forward(self, input_ids: Tensor, image_embeds: Tensor) -> tuple[Tensor, ...]:
        """The r-th image token of the batch, row by row, takes row r of the flattened image rows."""
        image = input_ids == self.family.config.image_token_id
        rank = (image.flatten().to(torch.int64).cumsum(0) - 1).clamp(min=0)
        rows = image_embeds.flatten(0, 1)
        rank = torch.minimum(rank, torch.full((), rows.shape[0] - 1, dtype=torch.int64))
        text = self.family.token_embeddings(input_ids.masked_fill(image, 0))
        placed = rows.index_select(0, rank).reshape(text.shape)
        port = Port("inputs_embeds", FLOAT, ("batch", "tokens", self.width), "decoder inputs")
        return self.finish({port.name: torch.where(image[..., None], placed, text)}, {port.name: port}, "")
