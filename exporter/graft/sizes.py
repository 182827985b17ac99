"""The size of every value, constant or a multiple of the batch, found by trying two batches."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from exporter.graft.source import BATCH

Size = tuple[int, int]  # a factor, and the power of the batch
TRIALS = (2, 3)


def settle(model: ir.Model) -> None:
    """Shapes in place, in ints and multiples of the batch; what is reshaped gets a constant target.

    Shape inference alone loses sight of sizes that are computed from the batch; at two constant batches it does not,
    and what grows with the batch is a multiple of it.
    """
    given = [ir.Shape(value.shape or ()) for value in model.graph.inputs]
    one, two = (_inferred(model, [_pinned(shape, batch) for shape in given]) for batch in TRIALS)
    for value, shape in zip(model.graph.inputs, given, strict=True):
        value.shape = _pinned(shape, BATCH)
    for node in model.graph:
        for value in node.outputs:
            value.shape = _joined(one[value], two[value]) if value in one and value in two else None
    for node in model.graph:
        if node.op_type == "Reshape":
            _retarget(model, node)


def size(dim: object) -> Size:
    """A dimension as a factor and a power of the batch.

    Raises:
        ValueError: neither a number nor a multiple of the batch.
    """
    if isinstance(dim, int):
        return dim, 0
    factor, _, name = str(dim).rpartition("*")
    if name != BATCH:
        raise ValueError(f"size {dim} is not known")
    return int(factor or 1), 1


def constant(graph: ir.Graph, numbers: list[int], name: str) -> ir.Value:
    """An int64 vector as a new initialiser."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(numbers, dtype=ir.DataType.INT64, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(numbers)]))
    graph.register_initializer(value)
    return value


def target(graph: ir.Graph, node: ir.Node, shape: ir.Shape) -> bool:
    """Make a Reshape end in `shape` by a constant; False, with nothing changed, where that has two open sizes."""
    numbers = [dim if isinstance(dim, int) else -1 for dim in shape]
    if numbers.count(-1) > 1 or 0 in numbers:
        return False
    given = node.inputs[1]
    assert given is not None
    if given.const_value is None or given.const_value.numpy().tolist() != numbers:
        node.replace_input_with(1, constant(graph, numbers, f"{node.outputs[0].name}_shape"))
    return True


def _retarget(model: ir.Model, node: ir.Node) -> None:
    shape = node.outputs[0].shape
    if shape is not None and all(isinstance(dim, int) or dim.value is not None for dim in shape):
        target(model.graph, node, shape)


def _inferred(model: ir.Model, shapes: list[ir.Shape]) -> dict[ir.Value, ir.Shape]:
    for value, shape in zip(model.graph.inputs, shapes, strict=True):
        value.shape = shape
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    return {v: v.shape for node in model.graph for v in node.outputs if v.shape is not None}


def _pinned(shape: ir.Shape, batch: int | str) -> ir.Shape:
    return ir.Shape([dim if isinstance(dim, int) else batch for dim in shape])


def _joined(one: ir.Shape, two: ir.Shape) -> ir.Shape | None:
    """Two trials as one shape."""
    if len(one) != len(two):
        return None
    return ir.Shape([_growing(a, b) for a, b in zip(one, two, strict=True)])


def _growing(one: object, two: object) -> int | str | None:
    if not isinstance(one, int) or not isinstance(two, int):
        return None
    if one == two:
        return one
    factor, rest = divmod(one, TRIALS[0])
    if rest or factor * TRIALS[1] != two:
        return None
    return BATCH if factor == 1 else f"{factor}*{BATCH}"
