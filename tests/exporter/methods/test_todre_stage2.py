"""ToDRE, stage 2: pictures leave late, and who still looks at them."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.crosstalk import crosstalk
from exporter.methods.todre import ToDRE
from exporter.methods.todre_stage2 import ToDREStage2
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention
from tests.exporter.methods.padded_prompts import LAYERS, Prompts, alike, as_graph, outcome

LLAVA = Shape(576, Grid(24, 24), decoder_layers=32)
TWO = Prompts((30, 24), 8, ((2, 14), (1, 12)))
ONE = Prompts((24, 20), 8, ((2,), (1,)))


def seen(starts, length=20, width=4, valid=None):
    """Taps over one layer, and its attention, causal."""
    maps = attention(1, 2, length, length).tril()
    maps = maps / maps.sum(-1, keepdim=True)
    shape = Shape(width, Grid(1, width), images=len(starts))
    return EagerTaps(starts, width, length, {0: Seen(attention=maps)}, shape, filled=valid), maps[0].mean(0)


@pytest.mark.parametrize("starts", [(3,), (3, 10)])
def test_shares_by_hand(starts):
    taps, mean = seen(starts)
    pictures = [start + step for start in starts for step in range(4)]
    text = [place for place in range(starts[0] + 4, 20) if place not in pictures]
    for got, rows, columns in zip(crosstalk(taps, 0), (text, pictures), (pictures, text), strict=True):
        wanted = mean[rows][:, columns].sum() / mean[rows].sum()
        torch.testing.assert_close(got, wanted[None])
    assert (crosstalk(taps, 0)[1] > 0).item() == (len(starts) > 1)


def test_the_flag_says_whether_both_are_below():
    taps, _ = seen((3, 10))
    shares = torch.cat(crosstalk(taps, 0))
    for tau, agrees in ((float(shares.max()) + 1e-3, 1), (float(shares.max()) - 1e-3, 0)):
        found = ToDREStage2(tau=tau).select(taps, Stage("decoder", 0, keep=0))
        assert found.indices.shape == (1, 2, 0)
        assert found.outputs["agrees"].tolist() == [agrees]
        hidden = ToDREStage2("tau", tau).select(taps, Stage("decoder", 0)).key_bias
        assert hidden.unique().tolist() == [-1e4 * agrees]


@pytest.mark.parametrize("prompts", [ONE, TWO], ids=["one", "two"])
def test_the_last_layers_cache_text_alone_at_its_positions(prompts):
    walk = prompts.walk(ToDREStage2(), "100%")
    for number, length in enumerate(prompts.lengths):
        rows, after, _ = outcome(walk, number)
        pictures = {start + step for start in prompts.starts[number] for step in range(8)}
        assert [len(each) for each in rows] == [length] * 4 + [length - len(pictures)]
        assert set(rows[-1]) == set(range(length)) - pictures
        assert after == [length] * LAYERS


@pytest.mark.parametrize("drop", ["always", "tau"])
def test_padding_and_other_sequences_do_not_matter(drop):
    alike(ToDREStage2(drop), TWO, "100%")


def test_hidden_tokens_are_as_good_as_gone():
    """Where the paper drops, the text comes out as it does when they are."""
    gone, hidden = (TWO.walk(ToDREStage2(drop, tau=1.0), "100%") for drop in ("always", "tau"))
    assert hidden.outputs["agrees"].tolist() == [1, 1]
    for number, length in enumerate(TWO.lengths):
        pictures = {start + step for start in TWO.starts[number] for step in range(8)}
        text = [place for place in range(length) if place not in pictures]
        torch.testing.assert_close(outcome(gone, number)[2], outcome(hidden, number)[2][text], rtol=1e-4, atol=1e-5)
    kept, dense = (TWO.walk(reducer, "100%") for reducer in (ToDREStage2("tau", tau=0.0), method("none")))
    torch.testing.assert_close(outcome(kept)[2], outcome(dense)[2])


@pytest.mark.parametrize("reducer", [ToDREStage2(), ToDREStage2("tau", tau=0.3)], ids=["always", "tau"])
def test_the_graph_is_the_reducer(reducer):
    found = as_graph(reducer, TWO, "100%")
    assert found["alpha_tv"].shape == found["alpha_vt"].shape == found["agrees"].shape == (2,)


@pytest.mark.parametrize(("layers", "behind"), [(2, 0), (4, 2), (5, 3), (28, 24), (32, 27), (40, 34), (80, 69)])
def test_never_before_seven_eighths_if_there_is_room(layers, behind):
    shape = Shape(576, Grid(24, 24), decoder_layers=layers)
    assert ToDREStage2().plan(shape, Budget("100%")) == (Stage("decoder", behind, keep=0),)


def test_plans_of_both_stages():
    cut, late = Stage("projected", keep=288), Stage("decoder", 27, keep=0)
    assert ToDRE(init="far").plan(LLAVA, Budget("50%")) == (cut, late)
    assert ToDRE(init="far", drop="tau").plan(LLAVA, Budget("50%")) == (cut, Stage("decoder", 27))
    assert ToDRE(init="far", stage2=False).plan(LLAVA, Budget("50%")) == (cut,)
    assert ToDRE().plan(LLAVA, Budget("100%")) == ()


def test_both_stages_drop_alike():
    taps, _ = seen((3, 10))
    one, two = (reducer.select(taps, Stage("decoder", 0, keep=0)).outputs for reducer in (ToDRE(), ToDREStage2()))
    assert {name: value.tolist() for name, value in one.items()} == {n: v.tolist() for n, v in two.items()}


@pytest.mark.parametrize(("layers", "keep", "says"), [(32, "50%", "give --keep 100%"), (1, "100%", "no late layer")])
def test_plans_that_do_not_fit(layers, keep, says):
    with pytest.raises(UserError, match=says) as caught:
        ToDREStage2().plan(Shape(576, Grid(24, 24), decoder_layers=layers), Budget(keep))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["todre", "todre-stage2"])
@pytest.mark.parametrize("params", [{"drop": "never"}, {"tau": "1.5"}])
def test_a_mistake_is_one_line(name, params):
    with pytest.raises(UserError) as caught:
        method(name, params)
    assert "\n" not in str(caught.value)
