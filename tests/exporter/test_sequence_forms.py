"""Tokens of several rows, [CLS] that joins its span, blanks."""

import torch

from exporter.reducer import Selection, Stage
from exporter.sequence import Sequence, cut


def encoded(unit=1, width=4):
    torch.manual_seed(0)
    hidden = torch.randn(2, 1 + width * unit, 3)
    places = torch.arange(hidden.shape[1]).expand(2, -1)
    carry = {"seen": torch.randn(2, 1, width)}
    return Sequence(hidden, 1, width, torch.arange(width).expand(2, 1, -1), positions=places, carry=carry, unit=unit)


def test_the_rows_of_a_token_stay_together():
    before = encoded(unit=2)
    picked = torch.tensor([[[0, 3]], [[1, 2]]])
    after = cut(before, Stage("tower", 0, keep=2), Selection(picked), renumber=False)
    assert after.positions.tolist() == [[0, 1, 2, 7, 8], [0, 3, 4, 5, 6]]
    assert torch.equal(after.hidden[0], before.hidden[0, [0, 1, 2, 7, 8]])
    assert torch.equal(after.origin, picked)


def test_rows_merge_with_their_counterparts():
    before = encoded(unit=2)
    mix = torch.rand(2, 1, 1, 4)
    stage, picked = Stage("tower", 0, keep=1, extra=1), torch.tensor([[[2]], [[0]]])
    after = cut(before, stage, Selection(picked, mix), renumber=False)
    tokens = before.hidden[:, 1:].unflatten(1, (4, 2))
    want = torch.einsum("bn,bnuc->buc", mix[:, 0, 0], tokens)
    torch.testing.assert_close(after.hidden[:, 3:], want)
    assert after.origin.tolist() == [[[2, -1]], [[0, -1]]]


def test_a_bias_reaches_every_row_of_a_token():
    stage, bias = Stage("tower", 0, keep=2), torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    after = cut(encoded(unit=2), stage, Selection(torch.tensor([[[0, 3]], [[1, 2]]]), key_bias=bias), renumber=False)
    assert after.bias.tolist() == [[0, 1, 1, 2, 2], [0, 3, 3, 4, 4]]


def test_cls_joins_its_span_in_front():
    before = encoded()
    picked = torch.tensor([[[1, 3]], [[0, 2]]])
    after = cut(before, Stage("tower", 0, keep=2, cls=True), Selection(picked), renumber=False)
    assert (after.start, after.width) == (0, 3)
    assert after.origin.tolist() == [[[-1, 1, 3]], [[-1, 0, 2]]]
    assert torch.equal(after.span_of(after.hidden)[1, 0], before.hidden[1, [0, 1, 3]])
    assert after.carry["seen"][0, 0].tolist() == [0.0, *before.carry["seen"][0, 0, [1, 3]].tolist()]


def test_blanks_are_rows_of_zeros_with_their_mark():
    before = encoded()
    marked = torch.tensor([[[3, 0, -2]], [[-1, 2, -2]]])
    after = cut(before, Stage("tower", 0, keep=3, blanks=True), Selection(marked), renumber=False)
    assert torch.equal(after.origin, marked)
    zeros = [0.0, 0.0, 0.0]
    assert after.hidden[:, 3].tolist() == [zeros, zeros]
    assert after.hidden[1, 1].tolist() == zeros
    assert torch.equal(after.hidden[0, 1:3], before.hidden[0, [4, 1]])
