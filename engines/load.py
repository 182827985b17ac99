"""What one prompt puts on each layer of a bundle's decoder, before and after pruning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.flops import Geometry, papers_macs

TEXT = 40  # words around the picture in the cost tables
PAPER_TEXT = 64  # words that papers put around a picture when they count


@dataclass(frozen=True)
class Load:
    """One picture of the first form with `text` words, or a prompt of the longest bucket.

    Attributes:
        geometry: The model.
        dense: Tokens of the picture or the prompt before anything is cut.
        ran: Of these, how many each layer computes.
        cached: Slots of each layer's cache, text included.
        text: Words beside the picture; 0 where the prompt itself is cut.
        whole: Whether that is so.
    """

    geometry: Geometry
    dense: int
    ran: tuple[int, ...]
    cached: tuple[int, ...]
    text: int
    whole: bool

    @classmethod
    def of(cls, bundle: Mapping[str, Any]) -> "Load":
        """From bundle.json's content."""
        geometry, pictures = Geometry(**bundle["geometry"]), bundle["pictures"]
        whole = any(entry["whole"] for entry in bundle["prefill"])
        text = 0 if whole else TEXT
        tokens = bundle["prefill"][-1]["tokens"] if whole else pictures[0]["tokens"] if pictures else 0
        dense = tokens if whole or not pictures else pictures[0]["patches"]
        groups = [group for group in bundle["groups"] for _ in range(*group["layers"])]
        ran = tuple(min(tokens, count) for count in bundle["ran"])
        cached = tuple(group["fixed"] or min(tokens, group["tokens"]) + text for group in groups)
        return cls(geometry, dense, ran, cached, text, whole)

    def layer(self, number: int) -> tuple[int, int]:
        """Rows that a layer computes, and slots of its cache."""
        return self.ran[number] + self.text, self.cached[number]

    @property
    def share(self) -> float:
        """Multiply-adds of the pruned decoder as a share of the dense one's, as papers count them."""
        text = 0 if self.whole else PAPER_TEXT
        dense = papers_macs(self.geometry, [self.dense + text] * len(self.ran))
        return papers_macs(self.geometry, [count + text for count in self.ran]) / dense
