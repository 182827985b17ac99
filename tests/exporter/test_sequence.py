"""Cuts against plain Python lists, row by row: what lives on, in which order, with which values."""

import random

import pytest
import torch

from exporter.reducer import Selection, Stage
from exporter.sequence import Sequence, cut, observe
from tests.exporter.plain_sequence import WIDE, draw, equal, tensors

SIZES = [(3, 0, 0), (7, 0, 0), (1, 0, 0), (0, 0, 0), (0, 2, 0), (3, 2, 0), (4, 0, 2), (4, 1, 1), (7, 3, 7)]


def choose(dice, rows, keep, extra, replaced):
    """Random places, weights and the rows they write, as lists."""
    width, spans = rows[0].width, len(rows[0].starts)
    picked = [[sorted(dice.sample(range(width), keep)) for _ in range(spans)] for _ in rows]
    written = (*sorted(dice.sample(range(keep), min(keep, replaced))), *range(keep, keep + extra))
    mix = [[[[dice.random() for _ in range(width)] for _ in written] for _ in range(spans)] for _ in rows]
    return picked, mix, written


def check(dice, rows, start, sizes, *, renumber=False):
    """One cut, and another one behind it."""
    keep, extra, replaced = sizes
    sequence = tensors(rows, start)
    for kept in (keep, (keep + extra) // 2):
        picked, mix, written = choose(dice, rows, kept, extra, replaced)
        selection = Selection(
            torch.tensor(picked) if kept else None,
            mix=torch.tensor(mix) if written else None,
            mix_rows=written if replaced else (),
        )
        sequence = cut(sequence, Stage("decoder", 0, keep=kept, extra=extra), selection, renumber=renumber)
        rows = [row.cut(p, m, written, extra) for row, p, m in zip(rows, picked, mix, strict=True)]
        for row in rows if renumber else ():
            row.positions = list(range(len(row.hidden)))
        equal(sequence, rows)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_one_span_that_stands_still(sizes, prefix):
    """Encoders: a prefix, one span, perhaps something behind it; no padding, no positions."""
    dice = random.Random(f"{sizes} {prefix}")
    for behind in (0, 2):
        check(dice, [draw(dice, prefix + 7 + behind, [prefix], 7, 99) for _ in range(2)], prefix, sizes)


def prompt(dice, spans, width, shown, longest):
    """One prompt: `shown` spans among words, sometimes side by side, then padding with the dummy spans."""
    starts, place = [], 0
    for _ in range(shown):
        place += dice.choice([0, 0, 1, 3])
        starts.append(place)
        place += width
    text = place + dice.choice([1, 2, 5])
    starts += [text + number * width for number in range(spans - shown)]
    return draw(dice, longest, starts, width, text)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("renumber", [True, False])
def test_spans_where_prompts_place_them(sizes, renumber):
    """Batches whose rows have other starts and other counts of pictures; dummies stand behind the text."""
    dice = random.Random(f"{sizes} {renumber}")
    for spans in (1, 2, 3):
        longest = spans * (7 + 3) + 5 + dice.choice([0, 2])
        rows = [prompt(dice, spans, 7, shown, longest) for shown in range(spans + 1)]
        check(dice, rows, None, sizes, renumber=renumber)


@pytest.mark.parametrize("keep", [0, 1, 4])
def test_nothing_but_adjacent_spans(keep):
    """No row before, between or behind them."""
    dice = random.Random(keep)
    check(dice, [draw(dice, 12, [0, 4, 8], 4, 12) for _ in range(2)], None, (keep, 0, 0))


@pytest.mark.parametrize("tail", [(), (2,), (2, 3)])
def test_span_of_and_splice_undo_each_other(tail):
    values, starts = torch.randn(2, 11, *tail), torch.tensor([[0, 3], [2, 8]])
    for start, shape in ((2, (2, 1, 3)), (starts, (2, 2, 3))):
        sequence = Sequence(torch.zeros(2, 11, 1), start, 3, torch.zeros(shape, dtype=torch.int64))
        spans = sequence.span_of(values)
        assert spans.shape == (*shape, *tail)
        assert torch.equal(sequence.splice(values, spans), values)
    assert torch.equal(spans[1, 1], values[1, 8:11])


def test_observing_adds_bias_to_the_spans_and_takes_carry_over():
    dice = random.Random(6)
    rows = [draw(dice, 10, [1, 5], 3, 10), draw(dice, 10, [0, 7], 3, 10)]
    before, added, seen = tensors(rows), torch.randn(2, 2, 3), torch.randn(2, 2, 3)
    after = cut(before, Stage("decoder", 0), Selection(key_bias=added, carry={"more": seen}), renumber=True)
    want = before.bias.clone()
    for batch, row in enumerate(rows):
        for number, start in enumerate(row.starts):
            want[batch, start : start + 3] += added[batch, number]
    torch.testing.assert_close(after.bias, want)
    assert after.hidden is before.hidden
    assert after.positions is before.positions
    assert after.carry == {"seen": before.carry["seen"], "more": seen}


def test_a_first_bias_starts_from_zero_and_no_bias_stays_none():
    plain = Sequence(torch.zeros(1, 5, WIDE), 2, 2, torch.arange(2).expand(1, 1, 2))
    assert observe(plain, Selection()).bias is None
    biased = observe(plain, Selection(key_bias=torch.tensor([[[1.0, -2.0]]], dtype=torch.float16)))
    assert biased.bias.dtype == torch.float32
    assert biased.bias.tolist() == [[0, 0, 1, -2, 0]]


def test_what_a_cut_says_of_its_own_rows():
    """Carry and bias of a selection that cuts belong to the rows it leaves, merged ones last."""
    plain = Sequence(torch.arange(6.0).reshape(1, 6, 1), 1, 4, torch.arange(4).expand(1, 1, 4))
    selection = Selection(
        torch.tensor([[[1, 3]]]),
        mix=torch.tensor([[[[1.0, 0, 1, 0]]]]),
        key_bias=torch.tensor([[[1.0, 2, 3]]]),
        carry={"size": torch.tensor([[[1.0, 1, 2]]])},
    )
    after = cut(plain, Stage("tower", 0, keep=2, extra=1), selection, renumber=True)
    assert after.hidden.flatten().tolist() == [0, 2, 4, 1 + 3, 5]
    assert after.origin.tolist() == [[[1, 3, -1]]]
    assert after.bias.tolist() == [[0, 1, 2, 3, 0]]
    assert after.carry["size"].tolist() == [[[1, 1, 2]]]
    assert after.valid is None
    assert after.positions is None
