"""LazyLLM (static): prompts that get shorter on their way, and what the auxiliary cache would hold."""

from itertools import pairwise

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.lazyllm import LazyLLM
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention
from tests.exporter.methods.padded_prompts import LAYERS, Prompts, alike, as_graph, outcome

DEEP = Shape(256, Grid(1, 256), decoder_layers=32)
BUCKET = Prompts((20, 13, 6), 20)


def kept(weights, keep, length=12):
    valid = (torch.arange(12) < length)[None]
    taps = EagerTaps((0,), 12, 12, {8: Seen(attention=weights)}, DEEP, filled=valid)
    return LazyLLM().select(taps, Stage("decoder", 8, keep=keep)).indices.flatten().tolist()


def test_the_last_token_chooses_and_stays():
    weights = attention(1, 3, 12, 12)
    weights[..., 11] = 0
    best = weights.mean(1)[0, -1].topk(4).indices.tolist()
    assert kept(weights, 5) == sorted([*best, 11])
    assert kept(weights, 1) == [11]


@pytest.mark.parametrize("length", [1, 5, 7])
def test_padding_goes_first(length):
    found = kept(attention(1, 3, 12, 12), 7, length)
    assert found == list(range(7))


def test_ties_go_to_the_lower_index():
    assert kept(torch.full((1, 2, 12, 12), 1 / 12), 4) == [0, 1, 2, 11]


def test_other_sequences_do_not_matter():
    alike(LazyLLM(), BUCKET, "34.3%")


def test_a_prompt_that_fits_behind_the_last_cut_loses_nothing():
    rows, after, hidden = outcome(BUCKET.walk(LazyLLM(), 7), 2)
    assert rows == [list(range(6))] * LAYERS
    assert after == [6] * LAYERS
    dense = outcome(BUCKET.walk(LazyLLM(), "100%"), 2)
    torch.testing.assert_close(hidden, dense[2], atol=1e-5, rtol=1e-5)


def test_tokens_keep_their_positions_and_sets_are_nested():
    rows, after, _ = outcome(BUCKET.walk(LazyLLM(), "34.3%"), 0)
    assert after == [20] * LAYERS
    assert all(set(b) <= set(a) for a, b in pairwise(rows))
    assert all(each[-1] == 19 for each in rows)
    assert [len(each) for each in rows] == [20, 20, 14, 10, 7]


def test_aux_holds_what_went_and_nothing_else():
    reducer = LazyLLM(aux=True)
    walk = BUCKET.walk(reducer, "34.3%")
    layers = [stage.layer for stage in reducer.plan(walk.shape, Budget("34.3%"))]
    assert layers == [1, 2, 3]
    for number, length in enumerate(BUCKET.lengths):
        gone = [walk.outputs[f"aux_places.{layer}"][number] for layer in layers]
        gone = [place for row in gone for place in row.tolist() if place >= 0]
        left = outcome(walk, number)[0][-1]
        assert sorted([*gone, *left]) == list(range(length))
    dense = BUCKET.walk(reducer, "100%").records[1].points["out"]
    torch.testing.assert_close(walk.outputs["aux.1"][0], dense[0, walk.outputs["aux_places.1"][0]])


@pytest.mark.parametrize("aux", [False, True])
def test_the_graph_is_the_reducer(aux):
    assert as_graph(LazyLLM(aux=aux), BUCKET, "34.3%")["rows"].shape == (3, 7)


@pytest.mark.parametrize("tokens", [100, 256, 512, 1024])
def test_the_paper_s_figure(tokens):
    first = tokens - tokens * 3 // 10
    second = first - first * 3 // 10
    third = second - second * 3 // 10
    wanted = tuple(Stage("decoder", layer, keep=keep) for layer, keep in ((8, first), (18, second), (27, third)))
    shape = DEEP.flat(tokens)
    assert LazyLLM().plan(shape, Budget("0.343")) == wanted
    assert LazyLLM().plan(shape, Budget(str(third))) == wanted
    assert LazyLLM(share=0.3).plan(shape, Budget("1")) == wanted


@pytest.mark.parametrize("keep", [1, 3, 100, 255])
def test_other_budgets_fall_to_the_budget(keep):
    left = [stage.keep for stage in LazyLLM().plan(DEEP, Budget(str(keep)))]
    assert left[-1] == keep
    assert all(a > b for a, b in pairwise(left))


def test_nothing_goes_where_all_is_kept():
    assert LazyLLM().plan(DEEP, Budget("100%")) == LazyLLM(share=0).plan(DEEP, Budget("9")) == ()


def test_a_shallow_decoder_keeps_the_last_cuts():
    assert LazyLLM().plan(Shape(100, Grid(1, 100), decoder_layers=2), Budget("25")) == (Stage("decoder", 0, keep=25),)


def test_layers_are_as_given():
    found = method("lazyllm", {"layers": "4,8", "share": "0.5"}).plan(DEEP, Budget("1"))
    assert found == (Stage("decoder", 3, keep=128), Stage("decoder", 7, keep=64))


def test_a_layer_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="cannot cut behind layers 4,32 of 32"):
        LazyLLM(layers="4,32").plan(DEEP, Budget("9"))


@pytest.mark.parametrize("params", [{"layers": "2,1"}, {"share": "1"}, {"share": "all"}, {"aux": "maybe"}])
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("lazyllm", params)
    assert "\n" not in str(caught.value)
