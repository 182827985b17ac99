"""Token ids, with image rows in the image tokens' places, to decoder inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.parts.base import FLOAT, Job, Part, Port

PROMPT = "prompt, each image token repeated for every row of its image"
ROWS = "rows of all images in order; zeros when there is none"


class EmbedPart(Part):
    """The same graph for text alone and for any number of images in any of the prompts."""

    name = "embed"

    def __init__(self, job: Job, tokens: int) -> None:
        super().__init__(job)
        self.widths = job.family.widths
        self.inputs = (
            Port("input_ids", "int64", ("batch", "tokens"), PROMPT),
            Port("image_embeds", FLOAT, ("images", tokens, self.widths.hidden), ROWS),
        )

    def forward(self, input_ids: Tensor, image_embeds: Tensor) -> tuple[Tensor, ...]:
        """The r-th image token of the batch, row by row, takes row r of the flattened image rows."""
        image = input_ids == self.widths.image_token
        rows = image_embeds.flatten(0, 1)
        rank = image.flatten().to(torch.int64).cumsum(0) - 1
        rank = torch.minimum(rank.clamp(min=0), torch.full((), rows.shape[0] - 1, dtype=torch.int64))
        text = self.family.token_embeddings(input_ids.masked_fill(image, 0))
        placed = torch.where(image[..., None], rows.index_select(0, rank).reshape(text.shape), text)
        port = Port("inputs_embeds", FLOAT, ("batch", "tokens", self.widths.hidden), "decoder inputs")
        return self.finish({port.name: placed}, port)
