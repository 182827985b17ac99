"""Rounding weights to 4 or 8 bits: symmetric, to nearest, ties to even. NumPy only.

A number w of a block is kept as the code `round(w / scale)`, and read as `code * scale`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["int4", "int8"]
Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

BITS = {"int4": 4, "int8": 8}
BLOCKS = (128, 64, 32)
DIGITS = 8  # of a scale: as many as bfloat16 has
LEAST = 2.0**-24  # of a scale: the smallest that float16 has
MOST = 65504.0  # the largest


def block(kind: Kind, width: int) -> int:
    """Numbers along the contraction, of `width`, that share a scale; 0: there is no such number.

    In 4 bits the largest of 128, 64 and 32 that divides the width. In 8 bits all of them: TensorRT multiplies by 4-bit
    blocks and by 8-bit columns directly, but makes 16-bit weights of 8-bit blocks first, in memory, at every run.
    """
    if kind == "int8":
        return width
    return next((size for size in BLOCKS if width and width % size == 0), 0)


def quantise(rows: Floats, kind: Kind, size: int) -> tuple[Codes, Floats]:
    """Codes and scales of a matrix.

    The scale is the block's largest magnitude over 7.5 (127.5 in 8 bits), and codes go from -8 to 7: the widest step
    that is nowhere wrong by more than half of it. That is 6 % less error (root mean square, normal weights, blocks of
    128) than -7 to 7 with a seventh; an eighth saves 5 % more, but is wrong by a whole step at the positive end.
    Scales are rounded up to 8 binary digits, which cost 0.2 %: float32, float16 and bfloat16 then hold the same scale,
    and float16 any int4 code times a scale without rounding, so that what is proven of one engine's weights is of all.

    Args:
        rows: finite, [rows, width].
        kind: "int4" or "int8".
        size: of a block; divides the width.

    Returns:
        Codes [rows, width] and scales [rows, width / size].
    """
    top = 2 ** (BITS[kind] - 1)
    blocks = rows.reshape(len(rows), -1, size)
    scales = _short(np.abs(blocks).max(-1) / np.float32(top - 0.5))
    codes = blocks / scales[..., None]
    np.clip(np.rint(codes, out=codes), -top, top - 1, out=codes)
    return codes.astype(np.int8).reshape(rows.shape), scales


def _short(scales: Floats) -> Floats:
    """Rounded up to DIGITS binary digits, and to what float16 can hold."""
    _, exponents = np.frexp(scales)
    steps = np.exp2(np.maximum(exponents - DIGITS, -24).astype(np.float32))
    rounded: Floats = np.maximum(np.ceil(scales / steps) * steps, np.float32(LEAST))
    return rounded


def dequantise(codes: Codes, scales: Floats) -> Floats:
    """The numbers that codes [rows, width] and scales [rows, blocks] stand for."""
    blocks = codes.reshape(*scales.shape, -1).astype(np.float32) * scales[..., None]
    return blocks.reshape(codes.shape)


def packed(codes: Codes, kind: Kind) -> NDArray[Any]:
    """Codes as ONNX lays them out: two of 4 bits in a byte, the first one low; the last byte may be half empty."""
    if kind == "int8":
        return codes
    flat = codes.reshape(-1).view(np.uint8)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    both = flat[1::2] << 4
    both |= flat[0::2] & 15
    return both
