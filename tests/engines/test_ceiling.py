"""Figures of known models, worked out by hand from the same formulas; FLOPs also with a counter."""

import pytest

from engines.ceiling import ceiling, coded_bytes, ridge
from engines.errors import UserError
from engines.flops import Geometry, layer_flops, prefill_flops, vision_flops
from engines.gpus import GPUS

PROJECTOR = 2 * 576 * (1024 * 4096 + 4096 * 4096)
LLAVA = Geometry(32, 4096, 4096, 11008, 32064, 23, 1024, 4096, 577, projector_flops=PROJECTOR)
QWEN = Geometry(28, 3584, 512, 18944, 152064, projector_flops=6.661e12)  # the vision side as one known number
NEXT = Geometry(32, 4096, 4096, 11008, 32064, projector_flops=1.951e12)
MIB = 2**20


@pytest.mark.parametrize(
    ("keep", "tflop", "ratio", "with_vision", "kv"),
    [
        (576, 8.08, 1, 1, 308),
        (288, 4.28, 1.89, 1.81, 164),
        (192, 3.02, 2.68, 2.48, 116),
        (128, 2.18, 3.70, 3.29, 84),
        (64, 1.35, 5.98, 4.87, 52),
        (29, 0.90, 9.02, 6.59, 34.5),
    ],
)
def test_llava_flops_and_cache(keep, tflop, ratio, with_vision, kv):
    result = ceiling(LLAVA, 576, keep)
    assert result.after.llm_flops / 1e12 == pytest.approx(tflop, abs=0.006)
    assert result.flop_ratio == pytest.approx(ratio, abs=0.006)
    assert result.flop_ratio_with_vision == pytest.approx(with_vision, abs=0.006)
    assert result.after.kv_bytes / MIB == pytest.approx(kv, abs=0.01)


@pytest.mark.parametrize(
    ("keep", "tflop", "ratio", "with_vision", "kv"),
    [(598, 8.41, 1.95, 1.53, 34.9), (266, 4.01, 4.10, 2.16, 16.7), (133, 2.27, 7.26, 2.59, 9.5)],
)
def test_qwen_flops_and_cache(keep, tflop, ratio, with_vision, kv):
    result = ceiling(QWEN, 1196, keep)
    assert result.before.llm_flops / 1e12 == pytest.approx(16.44, abs=0.006)
    assert result.after.llm_flops / 1e12 == pytest.approx(tflop, abs=0.006)
    assert result.flop_ratio == pytest.approx(ratio, abs=0.02)
    assert result.flop_ratio_with_vision == pytest.approx(with_vision, abs=0.006)
    assert result.after.kv_bytes / MIB == pytest.approx(kv, abs=0.06)


def test_clip_tower_and_projector():
    assert vision_flops(LLAVA) - PROJECTOR == pytest.approx(365.3e9, rel=1e-3)
    assert vision_flops(LLAVA) / 1e12 == pytest.approx(0.390, abs=0.001)


@pytest.mark.parametrize(
    ("model", "tokens", "gpu", "batch", "weight_bytes", "milliseconds", "speedup"),
    [
        (LLAVA, (576, 64), "h200", 1, 2, (10.2, 3.1), 3.3),
        (LLAVA, (576, 192), "h200", 1, 2, (10.2, 3.8), 2.7),
        (LLAVA, (576, 64), "h200", 8, 2, (81.8, 13.7), 6.0),
        (LLAVA, (576, 64), "h200", 1, 0.5, (10.2, 1.7), 6.0),
        (LLAVA, (576, 64), "orin", 1, 2, (190, 65), 2.9),
        (LLAVA, (576, 64), "orin", 1, 0.5, (190, 32), 6.0),
        (LLAVA, (576, 64), "thor", 1, 2, (49.6, 48.6), 1.02),
        (LLAVA, (576, 64), "thor", 1, 0.5, (32.3, 12.3), 2.6),
        (LLAVA, (576, 64), "thor", 8, 2, (259, 50), 5.2),
        (NEXT, (2880, 160), "h200", 1, 2, (50.7, 3.3), 15.4),
        (NEXT, (2880, 640), "thor", 1, 2, (160, 49.7), 3.2),
        (QWEN, (1196, 133), "h200", 1, 2, (20.8, 3.3), 6.3),
        (QWEN, (1196, 133), "orin", 1, 2, (387, 69), 5.6),
        (QWEN, (1196, 133), "thor", 1, 2, (65.8, 51.8), 1.27),
    ],
)
def test_prefill_rooflines(model, tokens, gpu, batch, weight_bytes, milliseconds, speedup):
    result = ceiling(model, *tokens, gpu=gpu, batch=batch, weight_bytes=weight_bytes)
    assert result.before.prefill_s * 1e3 == pytest.approx(milliseconds[0], rel=0.006)
    assert result.after.prefill_s * 1e3 == pytest.approx(milliseconds[1], rel=0.02)
    assert result.prefill_speedup == pytest.approx(speedup, rel=0.02)


@pytest.mark.parametrize(
    ("model", "before", "after", "wanted"),
    [
        (LLAVA, 576, 64, {1: 3.0, 10: 1.25, 64: 1.06}),
        (NEXT, 2880, 160, {1: 9.2, 10: 2.5, 64: 1.34}),
    ],
)
def test_whole_answers_on_h200(model, before, after, wanted):
    result = ceiling(model, before, after)
    assert {n: result.total_speedup(n) for n in wanted} == pytest.approx(wanted, rel=0.02)
    assert result.total_speedup(1) == result.ttft_speedup


def test_ridge():
    assert [round(ridge(GPUS[name])) for name in ("h200", "orin", "thor")] == [184, 208, 916]


def test_bytes_of_quantised_weights_count_scales_and_the_head():
    head = 4096 * 32064
    layers = LLAVA.parameters - head
    assert coded_bytes(LLAVA, 8) == 1
    assert coded_bytes(LLAVA, 4) * LLAVA.parameters == pytest.approx(layers * 4.125 / 8 + head)


def test_on_thor_only_fewer_bits_let_pruning_help():
    most = [ceiling(LLAVA, 576, 64, gpu="thor", weight_bytes=size) for size in (2, coded_bytes(LLAVA, 4))]
    assert [round(limit.prefill_speedup, 2) for limit in most] == [1.02, 2.5]


def test_pruning_inside_the_decoder_counts_each_layer():
    late = ceiling(LLAVA, 576, [576] * 2 + [64] * 30)
    both = [616] * 2 + [104] * 30
    assert late.after.llm_flops == prefill_flops(LLAVA, both)
    assert late.after.kv_bytes == 4 * 4096 * sum(both)
    assert late.after.tokens == (2 * 576 + 30 * 64) / 32
    assert ceiling(LLAVA, 576, 64).flop_ratio > late.flop_ratio > 1


def test_decoding_token_by_token_costs_what_prefill_costs():
    steps = sum(layer_flops(LLAVA, 1, cached) for cached in range(100))
    assert steps == pytest.approx(layer_flops(LLAVA, 100), rel=1e-9)


def test_wrong_number_of_layers():
    with pytest.raises(ValueError, match="31 token counts for 32"):
        ceiling(LLAVA, 576, [64] * 31)


def test_unknown_gpu_names_the_known():
    with pytest.raises(UserError, match=r"'h300'.*h200.*thor"):
        ceiling(LLAVA, 576, 64, gpu="h300")
