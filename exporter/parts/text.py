"""A question through the CLIP text tower, for methods that compare patches with it."""

from __future__ import annotations

from torch import Tensor

from exporter.parts.base import FLOAT, Job, Part, Port


class TextPart(Part):
    """Segments of at most L tokens, each by itself."""

    name = "text"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.clip = job.family.clip
        length = self.clip.text_model.embeddings.position_embedding.num_embeddings
        shape = ("segments", length)
        self.inputs = (
            Port("input_ids", "int64", shape, "CLIP's tokens of the question, zeros behind it"),
            Port("attention_mask", "int64", shape, "1 where there is a token"),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """`text_embeds [segments,P]`."""
        port = Port("text_embeds", FLOAT, ("segments", self.family.clip_width), "for the vision part")
        return self.finish({port.name: self.clip.text(input_ids, attention_mask)}, port)
