import numpy as np
import pytest
import torch

from exporter.attention import Tape
from exporter.eager_taps import EagerTaps, Seen
from exporter.masks import visible
from exporter.reducer import QKV, Grid, Shape
from exporter.sequence import Sequence
from exporter.taps import Record, RecordedTaps
from tests.exporter.attention_by_hand import LOWEST, by_hand

LENGTH, AHEAD, SCALE = 6, 2, 0.4  # two rows stand behind those that a selection may look at
SHAPE = Shape(2, Grid(1, 2))


@pytest.fixture
def seen():
    """A causal layer over all rows, those ahead included, as hooks see it."""
    torch.manual_seed(3)
    rows = LENGTH + AHEAD
    q, k = torch.randn(1, 4, rows, 8), torch.randn(1, 2, rows, 8)
    _, weights = by_hand(q, k, SCALE, torch.ones(1, rows))
    turned = QKV(q, k, k + 1)
    future = torch.full((rows, rows), LOWEST).triu(1)[None, None]
    return Seen({"out": torch.randn(1, rows, 5)}, torch.from_numpy(weights).float(), {True: turned}, SCALE, future)


def taps(seen, **more):
    return EagerTaps((0, 3), 2, LENGTH, {3: seen}, SHAPE, **more)


def recorded(seen):
    """The same layer as the traced graph would show it, without the rows ahead."""
    q, k, v = (values[:, :, :LENGTH] for values in seen.qkv[True])
    valid = torch.ones(1, LENGTH, dtype=torch.bool)
    hidden, origin = seen.points["out"][:, :LENGTH], torch.arange(2).expand(1, 2, 2)
    sequence = Sequence(hidden, torch.tensor([[0, 3]]), 2, origin, valid=valid)
    records = {3: Record({"out": hidden}, Tape(q=q, k=k, v=v, scale=SCALE))}

    def mask(places):
        return visible(valid, places)

    def project(layer, rope):
        raise AssertionError(f"layer {layer} is recorded")

    return RecordedTaps(sequence, records, project, mask, SHAPE, {})


ASKED = {
    "cls": lambda t: t.rows(3, "cls"),
    "last": lambda t: t.rows(3, "last"),
    "chosen": lambda t: t.rows(3, torch.tensor([[4, 1, 1]])),
    "logits": lambda t: t.rows(3, torch.tensor([[5, 0]]), logits=True),
    "column sum": lambda t: t.column_sum(3),
    "weighted column sum": lambda t: t.column_sum(3, torch.linspace(0, 1, LENGTH)[None]),
    "hidden": lambda t: t.hidden(3),
    "q": lambda t: t.qkv(3).q,
    "k": lambda t: t.qkv(3).k,
    "v": lambda t: t.qkv(3).v,
    "valid": lambda t: t.valid,
    "span": lambda t: t.span,
    "span of": lambda t: t.span_of(t.rows(3, "last")),
    "span of rows": lambda t: t.span_of(t.hidden(3).transpose(1, 2)),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
def test_eager_and_recorded_taps_answer_alike(seen, ask):
    torch.testing.assert_close(ask(taps(seen)), ask(recorded(seen)), rtol=1e-5, atol=1e-6)


def test_rows_are_the_weights_that_eager_attention_returned(seen):
    """Never recomputed: other weights than q and k would give come back as they are."""
    seen.attention = torch.rand_like(seen.attention)
    assert torch.equal(taps(seen).rows(3, "last"), seen.attention[:, :, LENGTH - 1 : LENGTH, :LENGTH])
    want = seen.attention[:, :, :LENGTH, :LENGTH].sum(2)
    torch.testing.assert_close(taps(seen).column_sum(3), want)


def test_masked_logits_are_the_lowest_number(seen):
    logits = taps(seen).rows(3, torch.tensor([[1]]), logits=True)
    assert (logits[..., 2:] == LOWEST).all()
    want, _ = by_hand(*seen.qkv[True][:2], SCALE)
    np.testing.assert_allclose(logits[0, :, 0, :2], want[0, :, 1, :2], rtol=1e-5)


def test_several_sequences_of_one_length():
    attention = torch.rand(2, 3, LENGTH, LENGTH)
    batch = EagerTaps((1,), 4, LENGTH, {0: Seen(attention=attention)}, SHAPE, batch=2)
    places = torch.tensor([[2], [5]])
    assert torch.equal(batch.rows(0, places), torch.stack([attention[0, :, 2:3], attention[1, :, 5:6]]))
    assert batch.span.tolist() == [[[1, 2, 3, 4]]] * 2
    assert batch.span_of(attention).shape == (2, 1, 3, LENGTH, 4)
    assert batch.valid.shape == (2, LENGTH)


def test_the_layer_about_to_run_is_looked_up(seen):
    asked = []
    look = taps(seen, peek=lambda layer: asked.append(layer) or seen)
    assert torch.equal(look.hidden(4), seen.points["out"][:, :LENGTH])
    assert torch.equal(look.hidden(3), look.hidden(4))
    assert asked == [4, 4]


def test_stale_layers_are_refused(seen):
    with pytest.raises(ValueError, match="layer 2 did not run since the last cut; carry its scores"):
        taps(seen).hidden(2)
