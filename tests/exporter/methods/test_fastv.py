"""FastV: what the last token looks at stays, where it stands."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.fastv import FastV
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, golden_paths, play_case
from tests.exporter.methods.padded_prompts import Prompts, alike, as_graph, outcome

LLAVA = Shape(576, Grid(24, 24), decoder_layers=32)
TWO = Prompts((30, 24), 8, ((2, 14), (1, 12)))


@pytest.mark.parametrize("path", golden_paths("fastv"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def kept(weights, keep, valid=None):
    """One layer's attention `[B,H,12,12]`, the span at 2 to 9."""
    taps = EagerTaps((2,), 8, 12, {1: Seen(attention=weights)}, LLAVA, batch=len(weights), filled=valid)
    return FastV().select(taps, Stage("decoder", 1, keep=keep)).indices[:, 0].tolist()


def test_the_last_token_chooses():
    weights = attention(2, 3, 12, 12)
    valid = torch.arange(12) < torch.tensor([[12], [11]])
    means = weights.mean(1)[:, :, 2:10]
    wanted = [row.topk(3).indices.sort().values.tolist() for row in (means[0, 11], means[1, 10])]
    assert kept(weights, 3, valid) == wanted


def test_ties_go_to_the_lower_index():
    assert kept(torch.full((1, 2, 12, 12), 1 / 12), 3) == [[0, 1, 2]]


def test_padding_and_other_sequences_do_not_matter():
    alike(FastV(), TWO, 3)


def test_the_graph_is_the_reducer():
    assert as_graph(FastV(k=2), TWO, 3)["rows"].shape == (2, 20)


def test_rows_stay_where_they_were():
    _, after, _ = outcome(TWO.walk(FastV(), 3), 1)
    assert after == [24] * 5


@pytest.mark.parametrize(("layers", "layer"), [(32, 1), (40, 1), (28, 1), (4, 0), (2, 0)])
def test_plan_is_the_paper_s(layers, layer):
    shape = Shape(576, Grid(24, 24), decoder_layers=layers)
    assert FastV().plan(shape, Budget("50%")) == (Stage("decoder", layer, keep=288),)
    assert FastV().plan(shape, Budget("100%")) == ()


def test_k_is_as_given():
    assert method("fastv", {"k": "3"}).plan(LLAVA, Budget("144")) == (Stage("decoder", 2, keep=144),)


@pytest.mark.parametrize("k", ["0", "-1", "2.5", "two"])
def test_a_mistake_is_one_line(k):
    with pytest.raises(UserError) as caught:
        method("fastv", {"k": k})
    assert "\n" not in str(caught.value)
