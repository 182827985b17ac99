"""The whole reducer contract through the full export: each toy uses another part of it.

`export` itself compares with PyTorch and raises below its bounds; what is left to assert is the form of the result.
"""

import pytest

from engines.bundle import open_bundle
from engines.errors import UserError
from exporter.budget import Budget
from exporter.plan import make_plan
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage
from tests.exporter.toy_exports import toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.getbasetemp()


def names(contract, part, way):
    return {tensor["name"]: list(tensor["shape"]) for tensor in contract["parts"][part][way]}


def widths(contract):
    return [(group["layers"], group["tokens"]) for group in contract["groups"]]


def passed(outcome):
    rows = outcome.parity["cases"]["fp32"]
    assert {row["level"] for row in rows} == {"indices", "embeddings", "logits", "tokens"}
    assert all(row["ok"] for row in rows)
    return outcome.contract


def test_two_cuts_inside_the_tower(folder):
    contract = passed(toy("in-tower", folder))
    assert [stage["keep"] for stage in contract["plan"]] == [64, 32]
    assert names(contract, "vision", "outputs")["image_embeds"] == ["batch", 32, 160]
    assert contract["parts"].keys() == {"vision", "embed", "decoder"}


def test_key_bias_in_tower_and_decoder(folder):
    contract = passed(toy("masker", folder))
    assert widths(contract) == [([0, 1], 32), ([1, 2], 32), ([2, 4], 16)]
    assert names(contract, "prefill", "outputs")["key_bias.1"] == ["batch", "length.1"]
    assert names(contract, "decode", "inputs")["key_bias.2"] == ["batch", "past.2+tokens"]


def test_merging_replaces_and_appends_rows(folder):
    outcome = toy("merger", folder)
    contract = passed(outcome)
    assert widths(contract) == [([0, 1], 32), ([1, 4], 18)]
    merged = [row for row in open_bundle(outcome.path).contract["plan"] if row["extra"]]
    assert [row["extra"] for row in merged] == [3, 2]


def test_scores_carried_across_parts_and_observing_stages(folder):
    contract = passed(toy("carrier", folder))
    assert contract["positions"] == "keep"
    assert names(contract, "vision", "outputs")["carry.seen"] == ["batch", 32]
    assert names(contract, "prefill", "inputs")["carry.seen"] == ["batch", 1, 32]
    assert "asked" in names(contract, "prefill", "outputs")
    assert widths(contract) == [([0, 2], 32), ([2, 3], 16), ([3, 4], 0)]


def test_taps_of_the_layer_about_to_run(folder):
    contract = passed(toy("peeker", folder))
    assert widths(contract) == [([0, 1], 32), ([1, 4], 16)]
    assert names(contract, "prefill", "outputs")["kept_indices.0"] == ["batch", 1, 32]


def test_merging_inside_a_layer_and_the_cls_row_kept(folder):
    contract = passed(toy("half-way", folder))
    assert [(stage["at"], stage["keep"]) for stage in contract["plan"]] == [("mid", 96), ("mid", 64), ("after", 31)]
    assert contract["pictures"][0]["tokens"] == 32


def test_rows_of_zeros_and_empty_slots(folder):
    outcome = toy("blanked", folder)
    assert passed(outcome)["pictures"][0]["tokens"] == 32


def test_a_method_that_reads_the_prompt(folder):
    inputs = names(passed(toy("reader", folder)), "vision", "inputs")
    assert inputs["text_embeds"] == ["batch", "words", 160]
    assert inputs["text_mask"] == ["batch", "words"]


def test_a_cut_decoder_builds_for_tensorrt(folder):
    engines = toy("carrier", folder, 2, ("trt-rtx",)).contract["engines"]["trt-rtx"]
    fused = engines["fused_attention"]
    assert fused["vision"] == {"_gemm_mha_v2": 4}
    assert sum(fused["prefill"].values()) >= 4  # score rows may become such a kernel too
    assert sum(fused["decode"].values()) == 8  # prompt profile, step profile


class Odd(Reducer):
    title = paper = "odd"

    def __init__(self, *stages, positions="renumber", needs=frozenset()):
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "needs", needs)

    def plan(self, shape, budget):
        return self.stages

    def select(self, taps, stage):
        return Selection()


@pytest.mark.parametrize(
    ("reducer", "says"),
    [
        (Odd(Stage("tower", 23, keep=3)), "no tower layer 23"),
        (Odd(Stage("decoder", 31, keep=3)), "allows -1 to 30"),
        (Odd(Stage("tower", 0, "kv", keep=3)), "'kv' a tower layer is not supported"),
        (Odd(Stage("tower", 0, keep=9), Stage("tower", 1, keep=10)), "cannot keep 10 of 9"),
        (Odd(Stage("tower", 0, keep=9), Stage("projected", keep=10)), "cannot keep 10 of 9"),
        (Odd(Stage("decoder", 3), Stage("tower", 0)), "not in the order"),
        (Odd(Stage("projected", keep=0)), "nothing is left of an image"),
        (Odd(Stage("decoder", 3, keep=4, extra=1), positions="keep"), "no position to keep"),
        (Odd(needs=frozenset({"video"})), "frames of a video"),
        (Odd(Stage("decoder", 0, "mid", keep=3)), "'mid' a decoder layer is not supported"),
        (Odd(Stage("projected", keep=3, cls=True)), "no .CLS. token to keep"),
    ],
)
def test_plans_that_no_stack_can_run_are_refused(reducer, says):
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32, has_cls=True)
    with pytest.raises(UserError, match=says):
        make_plan("odd", reducer, shape, Budget("1"))
