"""TransPrune: transitions added up over layers, and the instruction's attention."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.asked import by_text
from exporter.maths.transition import transition
from exporter.methods.transprune import TransPrune
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, golden_paths, normal, play_case
from tests.exporter.methods.padded_prompts import Prompts, alike, as_graph, outcome

LLAVA = Shape(576, Grid(24, 24), decoder_layers=32)
TWO = Prompts((30, 24), 8, ((2, 14), (1, 12)))


@pytest.mark.parametrize("path", golden_paths("transprune"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def test_the_text_behind_each_span_asks():
    maps = attention(2, 3, 12, 12)
    valid = torch.arange(12) < torch.tensor([[12], [11]])
    taps = EagerTaps((1, 6), 3, 12, {4: Seen(attention=maps)}, LLAVA, batch=2, filled=valid)
    found, means = by_text(taps, 4), maps.mean(1)
    for one, mean, end in zip(found, means, (12, 11), strict=True):
        torch.testing.assert_close(one[0], mean[[4, 5, *range(9, end)], 1:4].mean(0))
        torch.testing.assert_close(one[1], mean[9:end, 6:9].mean(0))


def test_without_text_behind_nobody_asks():
    taps = EagerTaps((2,), 6, 8, {4: Seen(attention=attention(1, 2, 8, 8))}, LLAVA)
    assert by_text(taps, 4).tolist() == [[[0.0] * 6]]


def test_a_transition_is_normalised_over_the_tokens_of_its_sequence():
    names = ("attention_in", "attention_out", "mlp_in", "mlp_out")
    points = {name: normal(2, 9, 5, seed=number) for number, name in enumerate(names)}
    valid = torch.arange(9) < torch.tensor([[9], [7]])
    found = transition(EagerTaps((1,), 5, 9, {0: Seen(points)}, LLAVA, batch=2, filled=valid), 0)
    for number, length in enumerate((9, 7)):
        wanted = torch.zeros(5)
        for kind in ("attention", "mlp"):
            before, after = (points[f"{kind}_{end}"][number, :length] for end in ("in", "out"))
            far = (1 - torch.cosine_similarity(before, after, dim=-1)).exp()
            wanted += (after.norm(dim=-1) / before.norm(dim=-1) * far / far.sum())[1:6]
        torch.testing.assert_close(found[number, 0], wanted)


def test_padding_and_other_sequences_do_not_matter():
    alike(TransPrune(), TWO, 1)


def test_the_graph_is_the_reducer():
    assert as_graph(TransPrune(layers="1,2,4"), TWO, 1)["rows"].shape == (2, 16)


def test_rows_are_numbered_anew_at_every_cut():
    rows, after, _ = outcome(TWO.walk(TransPrune(layers="1,2,4"), 1), 1)
    assert after == [len(each) for each in rows]
    assert after == [24, 22, 18, 18, 10]


def test_ties_go_to_the_lower_index():
    points = dict.fromkeys(("attention_in", "attention_out", "mlp_in", "mlp_out"), torch.ones(1, 12, 4))
    seen = {6: Seen(points), 7: Seen(attention=torch.full((1, 2, 12, 12), 1 / 12))}
    taps = EagerTaps((2,), 8, 12, seen, LLAVA)
    assert TransPrune().select(taps, Stage("decoder", 6, keep=3)).indices.tolist() == [[[0, 1, 2]]]


def test_plan_is_the_authors():
    left = {6: 504, 7: None, 8: 360, 9: None, 10: None, 11: 72}
    cuts = tuple(Stage("decoder", layer, keep=keep) for layer, keep in left.items())
    assert TransPrune().plan(LLAVA, Budget("72")) == cuts
    assert TransPrune().plan(LLAVA, Budget("100%")) == ()
    authors = TransPrune(layers="7,9,12", ratios="0.875,0.625,0.125", accumulate="7,8,9,10,11,12")
    assert authors.plan(LLAVA, Budget("1")) == cuts


def test_only_layers_before_the_last_cut_are_looked_at():
    found = TransPrune(layers="2,4,5", accumulate="1,5,9").plan(LLAVA, Budget("72"))
    assert [(stage.layer, stage.keep) for stage in found] == [(0, None), (1, 504), (3, 360), (4, 72)]


@pytest.mark.parametrize(("layers", "places"), [(28, [5, 6, 7, 8, 9, 10]), (4, [0, 1]), (2, [0])])
def test_other_depths(layers, places):
    found = TransPrune().plan(Shape(576, Grid(24, 24), decoder_layers=layers), Budget("72"))
    assert [stage.layer for stage in found] == places
    assert found[-1].keep == 72


@pytest.mark.parametrize("params", [{"layers": "8,16"}, {"accumulate": "3,2"}, {"accumulate": "0"}, {"ratios": "1"}])
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("transprune", params)
    assert "\n" not in str(caught.value)
