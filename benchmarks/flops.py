"""FLOPs of published graphs, as `graph_passes.cost` counts them, at the sizes of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from graph_passes.cost import cost


def graph_flops(path: Path, axes: Mapping[str, int]) -> float:
    """FLOPs of one run of a graph file; `axes` sizes its dynamic axes, others are 1.

    Shapes that a pass did not know are inferred first.
    """
    model = ir.load(path)
    found = cost(model, axes).flops
    return _inferred(model, axes) if found is None else found


def _inferred(model: ir.Model, axes: Mapping[str, int]) -> float:
    for value in model.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape([_sized(size, axes) for size in value.shape])
    for node in model.graph.all_nodes():  # what tracing noted holds dynamic axes
        for value in node.outputs:
            value.shape = None
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    found = cost(ir.from_proto(inferred), axes).flops
    assert found is not None, f"{model.graph.name}: onnx does not know every shape"
    return found


def _sized(size: int | ir.SymbolicDim, axes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    return sum(int(term) if term.isdigit() else axes.get(term, 1) for term in str(size).replace(" ", "").split("+"))
