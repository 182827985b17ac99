import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exporter.weight_only.maths import LEAST, block, dequantise, packed, quantise

TOP = {"int4": 8, "int8": 128}


def rows(*numbers):
    return np.array([numbers], np.float32)


def test_by_hand():
    codes, scales = quantise(rows(7.5, -7.5, 3.2, -0.4, 0, 1, -1, 2), "int4", 4)
    assert scales.tolist() == [[1.0, 0.267578125]]  # 2 / 7.5, rounded up to eight digits
    assert codes.tolist() == [[7, -8, 3, 0, 0, 4, -4, 7]]
    assert dequantise(codes, scales).tolist()[0][:4] == [7, -8, 3, 0]


def test_ties_go_to_the_even_code():
    codes, scales = quantise(rows(7.5, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5), "int4", 8)
    assert scales.tolist() == [[1]]
    assert codes.tolist() == [[7, 0, 2, 2, 0, -2, -2, 4]]


def test_a_block_of_zeros_has_a_scale_that_is_not_zero():
    codes, scales = quantise(np.zeros((2, 8), np.float32), "int4", 4)
    assert not codes.any()
    assert (scales == LEAST).all()


@pytest.mark.parametrize(
    ("kind", "width", "size"),
    [
        ("int4", 4096, 128), ("int4", 11008, 128), ("int4", 192, 64), ("int4", 160, 32), ("int4", 100, 0),
        ("int4", 0, 0), ("int8", 100, 100), ("int8", 0, 0),
    ],
)  # fmt: skip
def test_blocks(kind, width, size):
    assert block(kind, width) == size


NUMBERS = st.floats(-60000, 60000, width=32).filter(lambda number: number == 0 or abs(number) > 1e-4)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 4), st.just(16)), elements=NUMBERS), st.sampled_from(["int4", "int8"])
)
def test_no_weight_is_wrong_by_more_than_half_a_step(weights, kind):
    codes, scales = quantise(weights, kind, 8)
    assert codes.min() >= -TOP[kind]
    assert codes.max() < TOP[kind]
    error = np.abs(dequantise(codes, scales).astype(np.float64) - weights).reshape(-1, 2, 8)
    assert (error <= scales[..., None] * (0.5 + 1e-6)).all()


@given(arrays(np.float32, (2, 32), elements=NUMBERS))
def test_scales_are_the_same_numbers_in_every_float_type(weights):
    import ml_dtypes

    codes, scales = quantise(weights, "int4", 32)
    for kind in (np.float16, ml_dtypes.bfloat16):
        assert (scales.astype(kind).astype(np.float32) == scales).all()
    in_half = codes.reshape(2, 1, 32).astype(np.float16) * scales.astype(np.float16)[..., None]
    normal = np.broadcast_to(scales[..., None] > 2**-13, in_half.shape) & np.isfinite(in_half)
    wide = dequantise(codes, scales).reshape(2, 1, 32)
    assert (in_half.astype(np.float32) == wide)[normal].all()


def test_error_of_normal_weights_is_less_than_with_symmetric_codes():
    weights = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)

    def error(numbers):
        return float(np.sqrt(np.mean((numbers - weights) ** 2)))

    ours = error(dequantise(*quantise(weights, "int4", 128)))
    seventh = np.abs(weights).max(-1, keepdims=True) / 7
    assert ours < 0.95 * error(np.clip(np.rint(weights / seventh), -7, 7) * seventh)
    assert error(dequantise(*quantise(weights, "int8", 128))) < ours / 14


def test_two_codes_in_a_byte_the_first_one_low():
    assert packed(np.array([[1, -1], [-8, 7]], np.int8), "int4").tolist() == [0xF1, 0x78]
    assert packed(np.array([[1, 2, 3]], np.int8), "int4").tolist() == [0x21, 0x03]
    assert packed(np.array([[1, 2, 3]], np.int8), "int8").tolist() == [[1, 2, 3]]
