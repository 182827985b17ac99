import copy

import pytest

from engines.errors import UserError
from engines.fusion_tables import engine_tables, fused_in_words


def profile(fused, unfused=(), fp32=(), waits=(), kernels=9):
    return {
        "layers": kernels + 2,
        "kernels": kernels,
        "fused": fused,
        "unfused": [{"node": node, "why": why} for node, why in unfused],
        "fp32": [{"layer": layer, "nodes": nodes, "purpose": purpose} for layer, nodes, purpose in fp32],
        "copies": 3,
        "host_copies": list(waits),
    }


GEMM, GEMV = {"_gemm_mha_v2": 4}, {"_gemv_mha_v1": 4}
VISION = {
    "bytes": 3 * 2**20,
    "attention": 4,
    "dtype": "16 bits",
    "profiles": [
        profile(
            {"_gemm_mha_v2": 3},
            [("softmax_3", "ReduceMean 'mean' reads the probabilities, too")],
            [
                ("a", ["cast"], "selection"),
                ("b", [f"score_{n}" for n in range(7)], "selection"),
                ("c", ["gelu"], "fell"),
                ("d", [], "fell"),
            ],
            ["n[DevicetoShapeHostCopy]"],
        )
    ],
}
DECODER = {
    "bytes": 2**20,
    "attention": 4,
    "dtype": "16 bits",
    "profiles": [profile(GEMM), profile(GEMV, fp32=[("e", ["norm"], "norm")], kernels=7)],
}
BUNDLE = {
    "engines": {
        "ort-cpu": {"target": "ort-cpu", "dtype": "fp32", "layers": {}, "fusion": {}},
        "trt-rtx-sm89": {
            "target": "trt-rtx",
            "dtype": "fp16",
            "layers": {"vision": "engines/trt-rtx-sm89/vision.layers.json"},
            "fusion": {"vision": VISION, "decoder": DECODER},
        },
    },
}


def test_one_row_a_part():
    whole, *_ = engine_tables(BUNDLE)
    assert whole.title == "Engines for trt-rtx-sm89, fp16"
    assert whole.rows == (
        ("vision", "3 of 4 gemm", "9", "11", "4", "3", "1", "3 MiB"),
        ("decoder", "4 of 4 gemm / 4 of 4 gemv", "9 / 7", "11 / 9", "0 / 1", "3", "0", "1 MiB"),
    )
    assert "engines/trt-rtx-sm89/vision.layers.json" in whole.note


def test_details_follow():
    _, unfused, wide, waits = engine_tables(BUNDLE, "trt-rtx")
    assert unfused.rows == (("vision", "softmax_3", "ReduceMean 'mean' reads the probabilities, too"),)
    assert wide.rows == (
        ("vision", "which tokens stay", "2 layers", "cast, score_0, score_1, score_2, score_3, score_4 and 2 more"),
        ("vision", "not asked for", "c", "gelu"),
        ("vision", "not asked for", "d", "-"),
        ("decoder", "norms", "1 layers", "norm"),
    )
    assert waits.rows == (("vision", "n[DevicetoShapeHostCopy]"),)


def test_nothing_to_say_is_no_table():
    bundle = copy.deepcopy(BUNDLE)
    bundle["engines"]["trt-rtx-sm89"]["fusion"] = {"embed": {**DECODER, "attention": 0, "profiles": [profile({})]}}
    [whole] = engine_tables(bundle, "trt-rtx:sm89")
    assert whole.rows == (("embed", "-", "9", "11", "0", "3", "0", "1 MiB"),)


def test_an_engine_of_fp32_has_nothing_to_hide():
    bundle = copy.deepcopy(BUNDLE)
    bundle["engines"]["trt-rtx-sm89"]["fusion"] = {"vision": {**VISION, "dtype": "fp32"}}
    assert engine_tables(bundle)[0].rows[0][4] == "all"


@pytest.mark.parametrize(
    ("label", "match"),
    [
        ("trt", "no engines for trt; it has ort-cpu, trt-rtx-sm89"),
        ("ort-cpu", "no list of the layers of the engines for ort-cpu: only TensorRT plans have one"),
    ],
)
def test_an_engine_that_has_no_layers_is_refused(label, match):
    with pytest.raises(UserError, match=match):
        engine_tables(BUNDLE, label)


def test_a_bundle_without_plans_is_refused():
    with pytest.raises(UserError, match="no TensorRT engines; it has ort-cpu"):
        engine_tables({"engines": {"ort-cpu": BUNDLE["engines"]["ort-cpu"]}})


@pytest.mark.parametrize(
    ("fused", "attention", "words"),
    [
        ([GEMM], 4, "4 of 4 gemm"),
        ([GEMM, GEMV], 4, "8 of 8: 4 gemm, 4 gemv"),
        ([{}], 4, "0 of 4"),
        ([{}], 0, "-"),
        ([], 4, "-"),
    ],
)
def test_fused_attention_in_words(fused, attention, words):
    assert fused_in_words({"attention": attention, "profiles": [profile(each) for each in fused]}) == words
