"""Into the form that a target reads: its opset, its attention, its index type; what comes out is equal."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from graph_passes.base import Pass
from graph_passes.legalise import (
    explicit_attention,
    explicit_norm,
    explicit_rotary,
    float_cumsum,
    int32_indices,
    opset,
    tensor_scatter,
)

TRACED = 23  # the opset that graphs come in
EXPLICIT = {  # what opset 23 brought
    "explicit_attention": explicit_attention.run,
    "explicit_norm": explicit_norm.run,
    "explicit_rotary": explicit_rotary.run,
}
# what targets ask for, by name, of a graph that is published already
LEGAL: dict[str, Pass] = {
    **EXPLICIT,
    "float_cumsum": float_cumsum.run,
    **{f"opset_{number}": partial(opset.run, opset=number) for number in (20, 22)},
}


def passes(version: int, indices: str = "int64", consecutive: Collection[str] = ()) -> dict[str, Pass]:
    """The passes that lead to an opset, in order.

    Args:
        version: opset of the graph that comes out.
        indices: "int32" for inputs and outputs that are int64.
        consecutive: see `tensor_scatter`.
    """
    found: dict[str, Pass] = dict(EXPLICIT) if version < TRACED else {}
    if version > TRACED:
        found["tensor_scatter"] = partial(tensor_scatter.run, consecutive=consecutive)
    if indices == "int32":
        found["int32_indices"] = int32_indices.run
    return {**found, "opset": partial(opset.run, opset=version)}
