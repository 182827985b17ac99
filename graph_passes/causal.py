"""Which values are causal masks, by how they are computed from counted positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graph_passes import positions
from graph_passes.edit import dims, integer, is_op, known
from graph_passes.positions import Count, Flat, Given, Kind, Rule, turned, written

CAUSAL = "true where key <= query"
FUTURE = "true where key > query"
ADDED = "0 where key <= query, else the lowest number"
FLIPPED: Mapping[Kind, Kind] = {CAUSAL: FUTURE, FUTURE: CAUSAL, Flat(0): Flat(1), Flat(1): Flat(0)}
COMPARED = {("LessOrEqual", -1): CAUSAL, ("GreaterOrEqual", -2): CAUSAL, ("Greater", -1): FUTURE, ("Less", -2): FUTURE}
EXACT = {ir.DataType.INT64, ir.DataType.INT32}
Seen = dict[ir.Value, Kind | None]


def look(of: ir.Node | ir.Value, seen: Seen) -> Kind | None:
    """What a constant or the output of a node is, by what its inputs are; nodes in their order."""
    if isinstance(of, ir.Value):
        if of not in seen and of.producer() is None:
            seen[of] = written(of) or _triangle_written(of)
        return seen.get(of)
    rule = RULES.get(of.op_type) if is_op(of, of.op_type) else None
    if rule is None:
        return None
    given = [None if value is None else look(value, seen) for value in of.inputs]
    kind = rule(of, given) if given and (given[0] is not None or of.op_type in SOURCES) else None
    if kind is not None:
        seen[of.outputs[0]] = kind
    return kind


def _view(node: ir.Node, given: Given) -> Kind | None:
    """Another shape for the same numbers: masks keep their last two axes."""
    if not isinstance(given[0], str):
        return turned(node, given)
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    return given[0] if before is not None and after is not None and before[-2:] == after[-2:] else None


def _expand(node: ir.Node, given: Given) -> Kind | None:
    """Copies along axes of size one; positions stay aligned to the last axes."""
    return given[0] if isinstance(given[0], Count | Flat) else _view(node, given)


def _cast(node: ir.Node, given: Given) -> Kind | None:
    kind, dtype = given[0], node.outputs[0].dtype
    if isinstance(kind, Flat):
        return Flat(int(kind.number != 0)) if dtype == ir.DataType.BOOL else kind if dtype in EXACT else None
    return kind if isinstance(kind, Count) and dtype in EXACT else None


def _compare(node: ir.Node, given: Given) -> Kind | None:
    first, second = given
    if not isinstance(first, Count) or not isinstance(second, Count) or first.start != second.start:
        return None
    return COMPARED.get((node.op_type, first.axis)) if {first.axis, second.axis} == {-1, -2} else None


def _flip(_: ir.Node, given: Given) -> Kind | None:
    return FLIPPED.get(given[0]) if given[0] is not None else None


def _both(_: ir.Node, given: Given) -> Kind | None:
    kinds = set(given) - {Flat(1)}
    return CAUSAL if kinds == {CAUSAL} else None if kinds else Flat(1)


def _choose(node: ir.Node, given: Given) -> Kind | None:
    chosen, other = known(node.inputs[1]), known(node.inputs[2])
    if given[0] == FUTURE:
        chosen, other = other, chosen
    if given[0] not in {CAUSAL, FUTURE} or chosen is None or other is None or chosen.size != 1 or other.size != 1:
        return None
    return ADDED if chosen.item() == 0 and _lowest(other) else None


def _triangle(node: ir.Node, given: Given) -> Kind | None:
    """The lower triangle of trues, or the upper one of lowest numbers."""
    k = known(node.inputs[1]) if len(node.inputs) > 1 else np.array(0)
    if node.inputs[0] is None or k is None:
        return None
    if not integer(node, "upper", 1):
        true = given[0] == Flat(1) and node.outputs[0].dtype == ir.DataType.BOOL
        return CAUSAL if k.item() == 0 and true else None
    maker = node.inputs[0].producer()
    filled = maker.attributes.get("value") if maker is not None and is_op(maker, "ConstantOfShape") else None
    number = filled.as_tensor().numpy() if filled is not None else known(node.inputs[0])
    return ADDED if k.item() == 1 and number is not None and _lowest(number) else None


def _triangle_written(value: ir.Value) -> Kind | None:
    """A square mask in the file: nothing hidden up to the diagonal, everything above it."""
    data = known(value, most=1 << 24)
    if data is None or data.ndim < 2 or data.shape[-1] != data.shape[-2] or data.dtype.kind not in "bf":
        return None
    hidden = ~data if data.dtype == np.bool_ else data
    above = np.triu(np.ones(data.shape[-2:], bool), 1)
    if hidden[..., ~above].any():
        return None
    if data.dtype == np.bool_:
        return CAUSAL if hidden[..., above].all() else None
    return ADDED if _lowest(data[..., above]) else None


def _lowest(data: NDArray[Any]) -> bool:
    """Whether softmax makes exactly nothing of these beside any other number."""
    return data.dtype.kind == "f" and bool((data <= np.finfo(data.dtype).min).all())


SOURCES = {"Range", "ConstantOfShape", "Trilu"}
RULES: Mapping[str, Rule] = {
    **positions.RULES,
    **dict.fromkeys(("Unsqueeze", "Squeeze", "Reshape", "Identity"), _view),
    **dict.fromkeys(("LessOrEqual", "GreaterOrEqual", "Greater", "Less"), _compare),
    "Expand": _expand,
    "Cast": _cast,
    "Not": _flip,
    "And": _both,
    "Where": _choose,
    "Trilu": _triangle,
}
