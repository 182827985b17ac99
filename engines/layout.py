"""Where every row of a batch goes: placeholders become rows, sequences are padded, positions are counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from engines.errors import UserError
from engines.geometry import Geometry, Ints, Seen, Span


@dataclass(frozen=True)
class Layout:
    """A batch laid out; T rows, right-padded.

    Attributes:
        input_ids: [B, T] int64; a placeholder stands K times.
        mask: [B, T] int64; 1 where a row holds a token.
        offsets: [B, T] or, on three axes, [3, B, T] int64; positions relative to the first row's; 0 without token.
        advance: [B] int64; the position behind the last row, relative to the first row's.
        span_starts: [B, I] int64; where the K rows of each picture begin, then those of the dummies;
            I is 0 if none were asked for.
    """

    input_ids: Ints
    mask: Ints
    offsets: Ints
    advance: Ints
    span_starts: Ints

    def padded(self, rows: int, filler: int) -> "Layout":
        """With rows of nothing behind, up to so many of them."""
        more = [(0, 0), (0, rows - self.mask.shape[1])]
        return replace(
            self,
            input_ids=np.pad(self.input_ids, more, constant_values=filler),
            mask=np.pad(self.mask, more),
            offsets=np.pad(self.offsets, [(0, 0)] * (self.offsets.ndim - 2) + more),
        )


def lay_out(prompts: Sequence[Sequence[int]], pictures: Sequence[Seen], geometry: Geometry, spans: int = 0) -> Layout:
    """Lays out a batch of token lists.

    Args:
        prompts: Token ids of each sequence, none empty; one placeholder per picture.
        pictures: For each sequence, its pictures.
        geometry: What pictures are.
        spans: Spans every sequence must have: one without a picture is K masked rows behind its other rows.

    Raises:
        UserError: A prompt is empty, does not match its pictures, or has more of them than `spans`.
    """
    for prompt, seen in zip(prompts, pictures, strict=True):
        if not prompt:
            raise UserError("a prompt is empty: give at least one token")
        geometry.check(prompt, seen)
    rows = [geometry.spans(prompt, seen) for prompt, seen in zip(prompts, pictures, strict=True)]
    starts = [_starts(each, geometry, spans) for each in rows]
    ends = [sum(len(span.mask) for span in each) for each in rows]
    ends += [start + geometry.forms[0].tokens for row in starts for start in row]
    shape = (len(prompts), max(ends))
    input_ids, mask = np.full(shape, geometry.filler, np.int64), np.zeros(shape, np.int64)
    offsets = np.zeros((geometry.axes, *shape), np.int64)
    for b, each in enumerate(rows):
        valid = np.concatenate([span.mask for span in each])
        firsts = accumulate((span.advance for span in each), initial=0)
        places = np.concatenate([first + span.offsets for first, span in zip(firsts, each, strict=False)], axis=1)
        ids = np.repeat([span.token for span in each], [len(span.mask) for span in each])
        input_ids[b, : len(ids)], mask[b, : len(ids)], offsets[:, b, : len(ids)] = ids, valid, places * valid
    advance = np.array([sum(span.advance for span in each) for each in rows], np.int64)
    span_starts = np.array(starts, np.int64).reshape(len(prompts), spans)
    return Layout(input_ids, mask, offsets if geometry.axes > 1 else offsets[0], advance, span_starts)


def _starts(rows: Sequence[Span], geometry: Geometry, spans: int) -> list[int]:
    """Finds the rows where the spans of one prompt begin, dummies last."""
    if spans == 0:
        return []
    *firsts, end = accumulate((len(span.mask) for span in rows), initial=0)
    images = [first for first, span in zip(firsts, rows, strict=True) if span.token in geometry.placeholders]
    if len(images) > spans:
        raise UserError(f"a prompt has {len(images)} pictures, the export allows {spans}: export with --images")
    return images + [end + geometry.forms[0].tokens * j for j in range(spans - len(images))]
