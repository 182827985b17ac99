import numpy as np
import pytest
import torch

from exporter.attention import Tape
from exporter.masks import visible
from exporter.reducer import Grid, Shape
from exporter.sequence import Sequence
from exporter.taps import Record, RecordedTaps
from tests.exporter.attention_by_hand import by_hand

LENGTH, SCALE = 7, 0.4
STARTS = torch.tensor([[0, 4], [1, 3]])


def refuse(layer, rope):
    raise AssertionError(f"layer {layer} was recorded, nothing is to be projected")


class Case:
    """Random q and k of layer 3, masked and biased or not, with RecordedTaps and attention by hand over them."""

    def __init__(self, key_heads=4, masked=False, biased=False, start=1, kind=torch.float32):
        torch.manual_seed(7)
        self.q, self.k = torch.randn(2, 4, LENGTH, 8).to(kind), torch.randn(2, key_heads, LENGTH, 8).to(kind)
        self.valid = torch.arange(LENGTH) < torch.tensor([[7], [5]]) if masked else None
        bias = torch.randn(2, LENGTH) if biased else None
        spans = 1 if isinstance(start, int) else 2
        hidden, origin = torch.randn(2, LENGTH, 6), torch.arange(2).expand(2, spans, 2)
        self.sequence = Sequence(hidden, start, 2, origin, valid=self.valid, bias=bias)
        self.record = Record({"in": hidden}, Tape(q=self.q, k=self.k, v=self.k * 2, scale=SCALE))
        self.logits, self.weights = by_hand(self.q, self.k, SCALE, self.valid, bias)
        self.taps = self.make(refuse)

    def make(self, project):
        mask = None if self.valid is None else lambda places: visible(self.valid, places)
        return RecordedTaps(self.sequence, {3: self.record}, project, mask, Shape(2, Grid(1, 2)), {})


CASES = {
    "plain": {},
    "grouped keys": {"key_heads": 2},
    "one key head": {"key_heads": 1, "masked": True},
    "masked": {"masked": True},
    "biased": {"biased": True},
    "masked and biased": {"key_heads": 2, "masked": True, "biased": True},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return Case(**request.param)


def close(got, want):
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_the_cls_row(case):
    close(case.taps.rows(3, "cls"), case.weights[:, :, :1])


def test_the_last_row_is_the_last_valid_one(case):
    last = [LENGTH - 1] * 2 if case.valid is None else [6, 4]
    want = np.stack([case.weights[b, :, row : row + 1] for b, row in enumerate(last)])
    close(case.taps.rows(3, "last"), want)


def test_chosen_rows_and_their_logits(case):
    places = torch.tensor([[4, 0, 2], [1, 1, 3]])
    for tapped, all_rows in (({}, case.weights), ({"logits": True}, case.logits)):
        want = np.stack([all_rows[b][:, row] for b, row in enumerate(places.tolist())])
        close(case.taps.rows(3, places, **tapped), want)


def test_column_sums_count_valid_queries(case):
    counted = np.ones((2, LENGTH)) if case.valid is None else case.valid.numpy()
    close(case.taps.column_sum(3), np.einsum("bq,bhqk->bhk", counted, case.weights))


def test_column_sums_weigh_queries(case):
    weights = torch.rand(2, LENGTH)
    close(case.taps.column_sum(3, weights), np.einsum("bq,bhqk->bhk", weights, case.weights))


@pytest.mark.parametrize("key_heads", [2, 4])
def test_half_precision_is_scored_in_fp32(key_heads):
    case = Case(kind=torch.float16, key_heads=key_heads)
    close(case.taps.rows(3, "cls"), case.weights[:, :, :1])
    close(case.taps.rows(3, "last", logits=True), case.logits[:, :, -1:])


@pytest.mark.parametrize(("start", "places"), [(1, [[1, 2]]), (STARTS, None)])
def test_spans_of_any_values(start, places):
    taps = Case(masked=True, start=start).taps
    want = torch.tensor([places, places]) if places else STARTS[..., None] + torch.arange(2)
    assert torch.equal(taps.span, want)
    for values in (torch.randn(2, LENGTH), torch.randn(2, 4, LENGTH), torch.randn(2, 4, 3, LENGTH)):
        got = taps.span_of(values)
        assert got.shape == (2, want.shape[1], *values.shape[1:-1], 2)
        for b, i, j in np.ndindex(*want.shape):
            assert torch.equal(got[b, i, ..., j], values[b, ..., want[b, i, j]])


def test_valid_is_everything_where_nothing_is_padded():
    assert Case().taps.valid.tolist() == [[True] * LENGTH] * 2
    assert Case(masked=True).taps.valid.sum(1).tolist() == [7, 5]


def test_recorded_references_are_handed_out_as_they_are():
    case = Case()
    assert case.taps.hidden(3, "in") is case.sequence.hidden
    assert all(a is b for a, b in zip(case.taps.qkv(3), (case.q, case.k, case.record.tape.v), strict=True))


@pytest.mark.parametrize(("layer", "rope"), [(4, True), (3, False), (4, False)])
def test_what_was_not_recorded_is_projected(layer, rope):
    """The layer about to run, and any layer before rotation."""
    case, asked = Case(), []
    other = Tape(q=case.q + 1, k=case.k + 1, v=case.k, scale=SCALE)
    got = case.make(lambda *what: asked.append(what) or other).qkv(layer, rope=rope)
    assert asked == [(layer, rope)]
    assert got.q is other.q


def test_rows_of_the_layer_about_to_run_take_its_own_scale():
    case = Case()
    taps = case.make(lambda layer, rope: Tape(q=case.q, k=case.k, v=case.k, scale=2 * SCALE))
    close(taps.rows(4, "cls", logits=True), 2 * case.logits[:, :, :1])


def test_stale_layers_are_refused():
    with pytest.raises(ValueError, match=r"layer 2 did not run since the last cut \(recorded: 3\); carry its scores"):
        Case().taps.hidden(2)
