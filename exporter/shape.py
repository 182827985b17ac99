"""A model's geometry, as far as plans may depend on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


class Grid(NamedTuple):
    """Patches of one image, row-major."""

    rows: int
    cols: int


@dataclass(frozen=True)
class Shape:
    """What a plan may depend on: the model's geometry, known before anything is traced.

    A *view* is what the tower sees at once: the picture itself, one of its crops, or one frame of a video. Stages in
    the tower act on each view alone; stages behind the projector see all views of a picture as one span of `tokens`.

    Attributes:
        patches: prunable tokens of one view (where the projector merges patches: after merging).
        grid: their rows and columns.
        tower_layers: layers of the vision tower.
        tower_last: the layer whose output the projector reads (LLaVA-1.5: layers - 2).
        decoder_layers: layers of the language model.
        has_cls: whether row 0 of the tower is a [CLS] token.
        images: spans a prompt may hold.
        views: crops or frames of one picture.
        video: whether the views are frames, in order of time.
        global_layers: the tower layers that attend to the whole view; empty: all do.
        pooled: whether views are pooled behind the projector, so that nothing can be cut before.
        places: where the tokens of view after view stand in the list behind the projector; empty: in that order.
        heads, kv_heads: of the decoder's attention.
    """

    patches: int
    grid: Grid
    tower_layers: int = 1
    tower_last: int = 0
    decoder_layers: int = 1
    has_cls: bool = True
    images: int = 1
    views: int = 1
    video: bool = False
    global_layers: tuple[int, ...] = ()
    pooled: bool = False
    places: tuple[int, ...] = ()
    heads: int = 1
    kv_heads: int = 1

    @property
    def tokens(self) -> int:
        """Prunable tokens of all views together."""
        return self.patches * self.views

    def flat(self, tokens: int) -> Shape:
        """The same model with spans of so many tokens, which have no place in a picture if that is another number."""
        if tokens == self.tokens:
            return self
        return replace(self, patches=tokens, grid=Grid(1, tokens), views=1, video=False, places=())
