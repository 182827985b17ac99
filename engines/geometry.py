"""What pictures are to the decoder: how many rows each takes, which of them hold tokens, at which positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from engines.forms import Form, Mrope

Ints = NDArray[np.int64]
# One dict a picture, in order: its vision part's outputs without the batch axis, and "form", its form's number.
Seen = Sequence[dict[str, Any]]
EMPTY = -2  # the patch number of a slot without a token


class Span(NamedTuple):
    """What one token of a prompt takes: n rows of the decoder, and positions.

    `mask [n]` is 1 where a row holds a token, `offsets [axes,n]` are relative to the span's first position, `advance`
    is how far the next token is from it.
    """

    token: int
    mask: Ints
    offsets: Ints
    advance: int


@dataclass(frozen=True)
class Geometry:
    """What pictures are to the decoder.

    Attributes:
        forms: The forms of picture.
        image_token_id: The token that stands for an image in a prompt, whether there is a form for images or not;
            None where the model reads text only.
        positions: "keep": rows have the positions they had before pruning; "renumber": they are numbered anew;
            "mrope": as keep, on three axes.
    """

    forms: tuple[Form, ...]
    image_token_id: int | None
    positions: str

    @cached_property
    def placeholders(self) -> frozenset[int]:
        """The tokens that stand for pictures."""
        named = () if self.image_token_id is None else (self.image_token_id,)
        return frozenset({*named, *(form.token_id for form in self.forms)})

    @property
    def video_token_id(self) -> int | None:
        """The token that stands for a video; None where no form is one."""
        return next((form.token_id for form in self.forms if form.kind == "video"), None)

    @property
    def filler(self) -> int:
        """A token for padding: any but a placeholder, because the embed part counts these."""
        return next(token for token in count() if token not in self.placeholders)

    @property
    def axes(self) -> int:
        """Numbers in one token's position."""
        return 3 if self.positions == "mrope" else 1

    def places(self, tokens: Sequence[int]) -> list[int]:
        """The placeholders among tokens."""
        return [token for token in tokens if token in self.placeholders]

    def check(self, tokens: Sequence[int], seen: Seen) -> None:
        """Makes sure that a prompt has one placeholder per picture, of its kind.

        Raises:
            UserError: It has not.
        """
        found, wanted = self.places(tokens), [self.forms[picture["form"]] for picture in seen]
        if len(found) != len(wanted):
            raise UserError(
                f"a prompt has {len(found)} image token(s) but {len(wanted)} picture(s): write one per picture"
            )
        for number, (token, form) in enumerate(zip(found, wanted, strict=True), 1):
            if token != form.token_id:
                raise UserError(
                    f"picture {number} of a prompt is a {form.kind}, whose token is {form.token_id}, "
                    f"but token {token} stands there: give pictures in the prompt's order"
                )

    def spans(self, tokens: Sequence[int], seen: Seen) -> list[Span]:
        """What each token takes; pictures in the order of their placeholders."""
        one, still, pictures = np.ones(1, np.int64), np.zeros((self.axes, 1), np.int64), iter(seen)
        return [
            self._span(next(pictures)) if token in self.placeholders else Span(token, one, still, 1) for token in tokens
        ]

    def extent(self, tokens: Sequence[int], seen: Seen) -> tuple[int, int]:
        """How many rows and how many positions tokens take."""
        spans = self.spans(tokens, seen)
        return sum(len(span.mask) for span in spans), sum(span.advance for span in spans)

    def _span(self, picture: dict[str, Any]) -> Span:
        form, kept = self.forms[picture["form"]], np.asarray(picture["kept_indices"], np.int64)
        mask = (kept != EMPTY).astype(np.int64)
        if self.positions == "renumber":
            return Span(form.token_id, mask, (mask.cumsum() - 1)[None], int(mask.sum()))
        if self.positions == "keep":
            return Span(form.token_id, mask, kept[None], form.patches)
        assert form.mrope
        return Span(form.token_id, mask, _on_axes(kept, form.mrope), _reach(form.mrope))


def _on_axes(kept: Ints, grid: Mrope) -> Ints:
    """Frame, row and column of patches `[3,K]`; merged rows stand at the picture's start."""
    area, place = grid.rows * grid.cols, kept.clip(min=0)
    return np.stack([place // area * grid.step, place % area // grid.cols, place % grid.cols])


def _reach(grid: Mrope) -> int:
    """How far the text behind a picture is from its start: one more than the unpruned picture's largest offset."""
    return max((grid.frames - 1) * grid.step, grid.rows - 1, grid.cols - 1) + 1
