import copy
from dataclasses import asdict

import pytest

from engines.flops import Geometry
from engines.summary import details, summary

GEOMETRY = Geometry(32, 4096, 4096, 11008, 32064, 23, 1024, 4096, 577)
TENSOR = {
    "name": "pixel_values",
    "dtype": "float32",
    "shape": ["batch", 3, 336, 336],
    "meaning": "the picture",
}
BUNDLE = {
    "tp_export": "0.1.0",
    "created": "2030-01-01",
    "recipe": {"method": "fastervlm", "keep": 64, "gpu": "h200"},
    "geometry": asdict(GEOMETRY),
    "model": {"name": "llava-1.5-7b"},
    "pictures": [{"patches": 576, "tokens": 64}],
    "groups": [{"layers": [0, 32], "tokens": 64, "fixed": None}],
    "ran": [64] * 32,
    "prefill": [],
    "parts": {
        "vision": {
            "inputs": [TENSOR],
            "outputs": [{**TENSOR, "name": "image_embeds"}],
            "nodes": 123,
            "traced_nodes": 456,
        }
    },
    "engines": {
        "ort-cpu": {"dtype": "fp32", "files": {"vision": "onnx/vision.fp32.onnx"}},
        "trt-rtx": {
            "dtype": "fp16",
            "files": {"vision": "engines/trt-rtx/vision.plan"},
            "build_s": {"vision": 12.34},
            "fused_attention": {"vision": {"_gemm_mha_v2": 23}},
            "fusion": {"vision": {"attention": 23, "profiles": [{"fused": {"_gemm_mha_v2": 23}}]}},
        },
    },
    "files": {"onnx/vision.fp32.onnx": {"bytes": 2048}, "engines/trt-rtx/vision.plan": {"bytes": 3 * 2**20}},
    "versions": {"torch": "2.13.0"},
    "parity": {"verdict": "pass"},
}
PARITY = {
    "verdict": "pass",
    "rows": [
        {
            "level": "indices", "dtype": "fp32", "engine": "ort-cpu", "what": "equal", "value": 1.0,
            "threshold": 1.0, "verdict": "pass",
        }
    ],
}  # fmt: skip


def table(tables, title):
    return next(t for t in tables if t.title == title)


def test_before_and_after():
    shown = table(summary(BUNDLE, PARITY), "Before and after")
    assert shown.rows == (
        ("tokens per image, mean of all layers", "576", "64", "x9"),
        ("decoder prefill", "8.08 TFLOP", "1.35 TFLOP", "x5.98"),
        ("its layers, as papers count them", "100 %", "19.6 %", "x5.1"),
        ("vision and prefill", "8.44 TFLOP", "1.72 TFLOP", "x4.92"),
        ("key-value cache", "308 MiB", "52 MiB", "x5.92"),
        ("read for one decoded token", "12.6 GiB", "12.4 GiB", "x1.02"),
    )
    assert "vision 456 -> 123" in shown.note


def test_tokens_are_the_mean_over_layer_groups():
    bundle = copy.deepcopy(BUNDLE)
    bundle["pictures"][0]["tokens"] = 576
    cut(bundle, (2, 576), (30, 64))
    shown = table(summary(bundle, PARITY), "Before and after")
    assert shown.rows[0] == ("tokens per image, mean of all layers", "576", "96", "x6")


def cut(bundle, *runs):
    """Give a bundle's decoder runs of (layers, tokens)."""
    bundle["prefill"] = [{"part": "prefill", "tokens": 576, "whole": False}]
    bundle["pictures"][0]["tokens"] = 576
    ends = [sum(layers for layers, _ in runs[:n]) for n in range(len(runs) + 1)]
    bundle["groups"] = [
        {"layers": [ends[n], ends[n + 1]], "tokens": tokens, "fixed": None} for n, (_, tokens) in enumerate(runs)
    ]
    bundle["ran"] = [tokens for layers, tokens in runs for _ in range(layers)]


@pytest.mark.parametrize(
    ("runs", "share"),
    [
        (((7, 576), (2, 504), (3, 360), (20, 72)), "46.6 %"),  # TransPrune
        (((8, 576), (8, 288), (8, 144), (8, 72)), "51.8 %"),  # PyramidDrop
        (((2, 576), (30, 288)), "57.2 %"),  # FastV, K=2, R=0.5
        (((3, 576), (29, 144)), "38.3 %"),  # FastV, K=3, R=0.75
        (((3, 576), (4, 309), (9, 204), (16, 113)), "41.8 %"),  # SparseVLM 1.0, 192
    ],
)
def test_shares_are_those_that_papers_count(runs, share):
    bundle = copy.deepcopy(BUNDLE)
    cut(bundle, *runs)
    assert table(summary(bundle, PARITY), "Before and after").rows[2][2] == share


def test_every_run_of_layers_has_its_rows_and_its_cache():
    bundle = copy.deepcopy(BUNDLE)
    cut(bundle, (2, 576), (30, 64))
    bundle["groups"][1] |= {"layers": [2, 31]}
    bundle["groups"].append({"layers": [31, 32], "tokens": 64, "fixed": 200})
    shown = table(summary(bundle, PARITY), "Decoder, layer by layer")
    assert shown.rows == (
        ("0 to 1", "616", "616", "616", "9.62 MiB"),
        ("2 to 30", "616", "104", "104", "1.62 MiB"),
        ("31", "616", "104", "200", "3.12 MiB"),
    )
    assert "69.5 MiB" in shown.note


def test_figures_are_those_of_the_first_form():
    bundle = copy.deepcopy(BUNDLE)
    bundle["pictures"].append({"patches": 2880, "tokens": 320})
    bundle["groups"][0]["tokens"] = 320
    assert summary(bundle, PARITY)[0] == summary(BUNDLE, PARITY)[0]


def test_engines_say_what_is_known():
    assert table(summary(BUNDLE, PARITY), "Engines").rows == (
        ("ort-cpu", "vision", "fp32", "2 KiB", "-", "-"),
        ("trt-rtx", "vision", "fp16", "3 MiB", "12.3 s", "23 of 23 gemm"),
    )


def test_parity_rows_and_verdict():
    shown = table(summary(BUNDLE, PARITY), "Parity with PyTorch")
    assert shown.rows == (("indices", "fp32", "ort-cpu", "equal", "1", "1", "pass"),)
    assert shown.note == "Verdict: pass."


def ceilings(gpu, **changed):
    return table(summary({**BUNDLE, **changed, "recipe": {**BUNDLE["recipe"], "gpu": gpu}}, PARITY), "Ceiling")


def test_ceiling_of_the_gpu_that_the_recipe_names():
    assert [ceilings(gpu).columns[0] for gpu in ("h200", "thor")] == ["H200, batch 1", "Jetson Thor T5000, batch 1"]
    assert [row[:6] for gpu in ("h200", "thor") for row in ceilings(gpu).rows] == [
        ("16-bit weights", "184", "10.2 ms", "3.09 ms", "x3.31", "x3.01"),
        ("int8 weights", "92", "10.2 ms", "1.71 ms", "x5.98", "x4.92"),
        ("16-bit weights", "916", "49.6 ms", "48.6 ms", "x1.02", "x1.02"),
        ("int8 weights", "458", "32.3 ms", "24.4 ms", "x1.32", "x1.3"),
        ("int4 weights", "241", "32.3 ms", "12.9 ms", "x2.5", "x2.29"),
    ]
    shown = ceilings("thor").note
    assert "Jetson Thor T5000 250 TFLOP/s" in shown
    assert "--weights int4 lifts the most from x1.02 to x2.5." in shown


def test_no_word_of_fewer_bits_where_they_lift_nothing():
    shown = ceilings("h200", pictures=[{"patches": 2880, "tokens": 1440}], ran=[1440] * 32)
    assert [row[0] for row in shown.rows] == ["16-bit weights"]
    assert "--weights" not in shown.note


def test_speed_is_shown_where_it_was_measured():
    pair = {"what": "vision", "dense_s": 0.02, "pruned_s": 0.01, "ratio": 2.0, "least": 1.9, "most": 2.2}
    shown = table(summary(BUNDLE, {**PARITY, "speed": [pair]}), "Measured")
    assert shown.rows == (("vision", "20.0 ms", "10.0 ms", "x2", "x1.9 to x2.2"),)
    assert "Measured" not in {t.title for t in summary(BUNDLE, PARITY)}


def test_details():
    contract, versions = details(BUNDLE)
    assert contract.rows[0] == (
        "vision",
        "in",
        "pixel_values",
        "float32",
        "batch x 3 x 336 x 336",
        "the picture",
    )
    assert contract.rows[1][:3] == ("vision", "out", "image_embeds")
    assert versions.rows == (("tp-export", "0.1.0"), ("torch", "2.13.0"))
