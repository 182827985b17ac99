"""Token ids, with pictures' rows in their placeholders' places, to decoder inputs."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from exporter.parts.base import FLOAT, Job, Part, Port

PROMPT = "prompt, each placeholder repeated for every row of its picture"
ROWS = "rows of all pictures in order; one of zeros when there is none"


class EmbedPart(Part):
    """The same graph for text alone and for any number of images in any of the prompts."""

    name = "embed"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.widths = job.family.widths
        rows = (Port("image_embeds", FLOAT, ("rows", self.widths.hidden), ROWS),) if self.widths.placeholders else ()
        self.inputs = (Port("input_ids", "int64", ("batch", "tokens"), PROMPT), *rows)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The r-th placeholder of the batch, row by row, takes row r of the pictures' rows."""
        input_ids, *rows = tensors
        placed = self._placed(input_ids, *rows) if rows else self.family.token_embeddings(input_ids)
        port = Port("inputs_embeds", FLOAT, ("batch", "tokens", self.widths.hidden), "decoder inputs")
        return self.finish({port.name: placed}, port)

    def _placed(self, input_ids: Tensor, image_embeds: Tensor) -> Tensor:
        image = reduce(torch.logical_or, (input_ids == token for token in self.widths.placeholders))
        rank = image.flatten().to(torch.int64).cumsum(0) - 1
        rank = torch.minimum(rank.clamp(min=0), torch.full((), image_embeds.shape[0] - 1, dtype=torch.int64))
        text = self.family.token_embeddings(input_ids.masked_fill(image, 0))
        return torch.where(image[..., None], image_embeds.index_select(0, rank).reshape(text.shape), text)
