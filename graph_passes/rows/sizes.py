"""Lengths of axes, known or named, and the small constants that operators carry."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import convenience

Dim = int | ir.SymbolicDim


class Refused(Exception):  # noqa: N818 - a rule's answer, not an error
    """Rows cannot pass; the text says why."""


def shape_of(value: ir.Value | None) -> list[Dim]:
    """All axes of a value.

    Raises:
        Refused: they are not known.
    """
    if value is None or value.shape is None:
        raise Refused("a shape is not known")
    return list(value.shape)


def same(one: Dim, other: Dim) -> bool:
    """Whether two axes are known to be equally long."""
    if isinstance(one, int) or isinstance(other, int):
        return isinstance(one, int) and isinstance(other, int) and one == other
    return one.value is not None and one == other


def times(one: Dim, other: Dim) -> Dim:
    """The product of two lengths."""
    try:
        return one * other
    except ValueError:  # the name of an axis is no expression
        return ir.SymbolicDim(None)


def excess(size: Dim, count: Dim) -> int | None:
    """How much longer `size` is than `count`, if that is known."""
    try:
        left = size - count
    except ValueError:
        return None
    text = str(left) if isinstance(left, int) else left.value
    return int(text) if text is not None and text.lstrip("-").isdecimal() else None


def ints(value: ir.Value | None) -> list[int] | None:
    """The numbers of a small constant; None if it is none, or lies in a file."""
    tensor = None if value is None else convenience.get_const_tensor(value)
    if tensor is None or isinstance(tensor, ir.ExternalTensor) or not tensor.dtype.is_integer():
        return None
    return [int(number) for number in tensor.numpy().reshape(-1)]
