"""PyramidDrop: stages that rank by what the next layer would look at."""

from dataclasses import replace

import pytest

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.pyramiddrop import PyramidDrop
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, golden_paths, map_taps, play_case
from tests.exporter.methods.padded_prompts import Prompts, alike, as_graph, outcome

LLAVA = Shape(576, Grid(24, 24), decoder_layers=32)
TWO = Prompts((30, 24), 8, ((2, 14), (1, 12)))


@pytest.mark.parametrize("path", golden_paths("pyramiddrop"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def test_the_next_layer_s_last_row_ranks_and_ties_go_to_the_lower_index():
    maps = attention(1, 2, 9, 9)
    taps = map_taps({3: 0 * maps, 4: maps}, has_cls=False)
    found = PyramidDrop().select(taps, Stage("decoder", 3, keep=4))
    assert found.indices.tolist() == [[maps.mean(1)[0, -1].topk(4).indices.sort().values.tolist()]]
    even = replace(taps, seen={4: replace(taps.seen[4], attention=0 * maps)})
    assert PyramidDrop().select(even, Stage("decoder", 3, keep=4)).indices.tolist() == [[[0, 1, 2, 3]]]


def test_padding_and_other_sequences_do_not_matter():
    alike(PyramidDrop(), TWO, 1)


def test_the_graph_is_the_reducer():
    assert as_graph(PyramidDrop(), TWO, 1)["rows"].shape == (2, 16)


def test_rows_are_numbered_anew_at_every_cut():
    rows, after, _ = outcome(TWO.walk(PyramidDrop(), 1), 1)
    assert after == [len(each) for each in rows]
    assert after == [24, 24, 16, 12, 10]


def test_plan_is_the_authors():
    cuts = tuple(Stage("decoder", layer, keep=keep) for layer, keep in ((7, 288), (15, 144), (23, 72)))
    assert PyramidDrop().plan(LLAVA, Budget("72")) == PyramidDrop().plan(LLAVA, Budget("12.5%")) == cuts
    assert PyramidDrop().plan(LLAVA, Budget("100%")) == ()
    assert [s.keep for s in PyramidDrop().plan(LLAVA, Budget("144"))] == [329, 205, 144]


def test_lists_are_as_given():
    found = method("pyramiddrop", {"layers": "2,4", "ratios": "0.5,0.3"}).plan(LLAVA, Budget("1"))
    assert found == (Stage("decoder", 1, keep=288), Stage("decoder", 3, keep=172))


@pytest.mark.parametrize("params", [{"layers": "8,16"}, {"layers": "0,1,2"}, {"ratios": "0.5,0.6,0.1"}])
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("pyramiddrop", params)
    assert "\n" not in str(caught.value)
