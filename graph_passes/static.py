"""Sizes that are known become constants; a dynamic axis is measured once, whatever the number of layers."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import convenience

from graph_passes.base import PassResult
from graph_passes.edit import MOST, dims, integers, is_op, known, tidy
from graph_passes.residue import residue
from graph_passes.rulers import Rulers
from graph_passes.sizes import Sizes, given, sizes_of


def run(model: ir.Model) -> PassResult:
    """Fold what measures axes that the budget fixes, and share what measures the others.

    Sizes are followed through Shape, Gather, Slice, Concat and the like as numbers and names of dynamic axes; equal
    names are equal sizes. All numbers: a constant. A Reshape copies dynamic axes (0) or infers one (-1) where that is
    unambiguous; an Expand leaves them as they are (1). What is still measured comes from one Shape of a graph input
    for each name. Refusals name the nodes that still measure a fixed axis, or whose output depends on data.
    """
    graph = model.graph
    found: dict[ir.Value, Sizes] = {}
    rulers = Rulers(graph, found)
    rewrites = 0
    for node in list(graph):
        if is_op(node, "Reshape", "Expand"):
            rewrites += _constant_target(graph, node, found)
        sizes = sizes_of(node, found)
        if sizes is not None:
            found[node.outputs[0]] = sizes
            rewrites += rulers.shared(node, sizes)
        elif is_op(node, "Range"):
            rewrites += _counted(graph, node, found)
    return PassResult(tidy(model, rewrites), tuple(residue(model)))


def check(model: ir.Model) -> None:
    """Refuse a graph that measures what its budget fixes.

    Raises:
        ValueError: a node measures a static axis, or the shape of its output depends on data.
    """
    found = residue(model)
    if found:
        raise ValueError(f"graph {model.graph.name} is not static: {'; '.join(found)}")


def _counted(graph: ir.Graph, node: ir.Node, found: dict[ir.Value, Sizes]) -> bool:
    """Replace a Range over known integers by its numbers."""
    out, bounds = node.outputs[0], [given(value, found) for value in node.inputs]
    numbers = [n for bound in bounds if bound is not None and bound.scalar for n in bound.numbers or ()]
    if out.dtype != ir.DataType.INT64 or out.is_graph_output() or len(numbers) != 3:
        return False
    counted = range(*numbers) if numbers[2] else range(MOST + 1)
    if len(counted) > MOST:
        return False
    convenience.replace_all_uses_with(out, integers(graph, counted))
    return True


def _constant_target(graph: ir.Graph, node: ir.Node, found: dict[ir.Value, Sizes]) -> bool:
    """Give one Reshape or Expand a constant shape, if there is one that means the same."""
    x, target = node.inputs[:2]
    wanted = found.get(target) if target is not None else None
    if target is None or wanted is None or wanted.scalar or known(target) is not None:
        return False
    of = dims(x)
    numbers = _reshape(wanted, of) if node.op_type == "Reshape" else _expand(wanted, of)
    if numbers is None:
        return False
    node.replace_input_with(1, integers(graph, numbers))
    if node.op_type == "Reshape":
        node.attributes.pop("allowzero", None)
    return True


def _reshape(wanted: Sizes, of: list[int | str | None] | None) -> list[int] | None:
    """Numbers above zero, 0 where an axis keeps its place, at most one -1."""
    numbers, inferred = [], 0
    for place, size in enumerate(wanted.entries):
        if isinstance(size, int):
            numbers.append(size)
        elif size is not None and of is not None and place < len(of) and of[place] == size:
            numbers.append(0)
        else:
            numbers.append(-1)
            inferred += 1
    sure = 0 not in wanted.entries and numbers.count(-1) < 2
    return numbers if sure and not (inferred and 0 in numbers) else None  # of an empty axis nothing can be inferred


def _expand(wanted: Sizes, of: list[int | str | None] | None) -> list[int] | None:
    """Numbers, and 1 where an axis is as long already."""
    if of is None:
        return None
    aligned: list[int | str | None] = [None] * (len(wanted.entries) - len(of)) + list(of)
    numbers = []
    for size, mine in zip(wanted.entries, aligned[-len(wanted.entries) :], strict=True):
        if isinstance(size, int):
            numbers.append(size)
        elif size is not None and size == mine:
            numbers.append(1)
        else:
            return None
    return numbers
