"""Where every row of a batch goes: image tokens become rows, sequences are padded, positions are counted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Geometry:
    """What one picture is to the decoder.

    Attributes:
        image_token_id: The token that stands for one picture in a prompt.
        embedded: K, rows one picture takes.
        patches: Positions one picture takes where positions are kept.
        keep_positions: Whether rows keep the positions they had before pruning, or are numbered anew.
    """

    image_token_id: int
    embedded: int
    patches: int
    keep_positions: bool

    @property
    def filler(self) -> int:
        """A token for padding: any but the image's, because the embed part counts image tokens."""
        return 1 if self.image_token_id == 0 else 0

    def rows(self, tokens: Sequence[int]) -> int:
        """Counts the rows that tokens take."""
        return len(tokens) + tokens.count(self.image_token_id) * (self.embedded - 1)

    def advance(self, tokens: Sequence[int]) -> int:
        """Counts the positions that tokens take."""
        span = self.patches if self.keep_positions else self.embedded
        return len(tokens) + tokens.count(self.image_token_id) * (span - 1)


@dataclass(frozen=True)
class Layout:
    """A batch laid out; T rows, right-padded.

    Attributes:
        input_ids: [B, T] int64; an image token stands K times.
        mask: [B, T] int64; 1 where a row is valid.
        offsets: [B, T] int64; positions relative to the first row's; 0 where not valid.
        advance: [B] int64; the position behind the last row, relative to the first row's.
        span_starts: [B, I] int64; where the K rows of each picture begin, then those of the dummies;
            I is 0 if none were asked for.
    """

    input_ids: Ints
    mask: Ints
    offsets: Ints
    advance: Ints
    span_starts: Ints


def check_pictures(tokens: Sequence[int], pictures: int, geometry: Geometry) -> None:
    """Makes sure that a prompt has one image token per picture.

    Raises:
        UserError: It has not.
    """
    places = tokens.count(geometry.image_token_id)
    if places != pictures:
        raise UserError(f"a prompt has {places} image token(s) but {pictures} picture(s): write one per picture")


def lay_out(
    prompts: Sequence[Sequence[int]], kept: Sequence[Sequence[Ints]], geometry: Geometry, spans: int = 0
) -> Layout:
    """Lays out a batch of token lists.

    Args:
        prompts: Token ids of each sequence, none empty; one image token per picture.
        kept: For each sequence, the kept patch numbers [K] of each of its pictures.
        geometry: What one picture is.
        spans: Spans every sequence must have: one without a picture is K masked rows behind its valid rows.

    Raises:
        UserError: A prompt is empty, does not match its pictures, or has more of them than `spans`.
    """
    for prompt, pictures in zip(prompts, kept, strict=True):
        if not prompt:
            raise UserError("a prompt is empty: give at least one token")
        check_pictures(prompt, len(pictures), geometry)
    rows = [_rows(prompt, pictures, geometry) for prompt, pictures in zip(prompts, kept, strict=True)]
    starts = [_starts(prompt, geometry, spans) for prompt in prompts]
    ends = [len(ids) for ids, _ in rows] + [start + geometry.embedded for row in starts for start in row]
    shape = (len(prompts), max(ends))
    input_ids = np.full(shape, geometry.filler, np.int64)
    mask, offsets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for b, (ids, positions) in enumerate(rows):
        input_ids[b, : len(ids)], mask[b, : len(ids)], offsets[b, : len(ids)] = ids, 1, positions
    advance = np.array([geometry.advance(prompt) for prompt in prompts], np.int64)
    return Layout(input_ids, mask, offsets, advance, np.array(starts, np.int64).reshape(len(prompts), spans))


def _rows(tokens: Sequence[int], pictures: Sequence[Ints], geometry: Geometry) -> tuple[list[int], list[int]]:
    """Expands one prompt: its rows' token ids and relative positions."""
    ids: list[int] = []
    positions: list[int] = []
    at, picture = 0, iter(pictures)
    for token in tokens:
        span = np.zeros(1, np.int64)
        if token == geometry.image_token_id:
            kept = next(picture)
            span = kept if geometry.keep_positions else np.arange(geometry.embedded)
        ids += [token] * len(span)
        positions += (at + span).tolist()
        at += geometry.advance([token])
    return ids, positions


def _starts(tokens: Sequence[int], geometry: Geometry, spans: int) -> list[int]:
    """Finds the rows where the spans of one prompt begin, dummies last."""
    if spans == 0:
        return []
    images = [i for i, token in enumerate(tokens) if token == geometry.image_token_id]
    if len(images) > spans:
        raise UserError(f"a prompt has {len(images)} pictures, the export allows {spans}: export with --images")
    end = geometry.rows(tokens)
    dummies = [end + geometry.embedded * j for j in range(spans - len(images))]
    return [geometry.rows(tokens[:i]) for i in images] + dummies
