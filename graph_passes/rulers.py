"""One measurement of each dynamic axis, at a graph input, for all who need its size."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import convenience

from graph_passes.edit import dims, integer, integers, is_op, known, made
from graph_passes.sizes import Entry, Sizes

INT64 = ir.DataType.INT64


class Rulers:
    """The values of a graph that hold sizes, each once.

    To be asked in the order of the nodes: what is shared stands in front of who shares it.
    """

    def __init__(self, graph: ir.Graph, found: dict[ir.Value, Sizes]) -> None:
        self.graph, self.found = graph, found
        self.values: dict[Sizes, ir.Value] = {}
        self.places: dict[str, tuple[ir.Value, int]] = {}
        for value in graph.inputs:
            for axis, size in enumerate(dims(value) or []):
                if isinstance(size, str):
                    self.places.setdefault(size, (value, axis))

    def shared(self, node: ir.Node, sizes: Sizes) -> bool:
        """Let the users of a node that computes `sizes` read the one value for them; False if it is that value."""
        out = node.outputs[0]
        if None in sizes.entries or out.is_graph_output() or not out.uses():
            return False
        if sizes.numbers is not None:
            value = integers(self.graph, sizes.numbers[0] if sizes.scalar else sizes.numbers)
        else:
            value = self._value(node, sizes)
        if value is not out:
            convenience.replace_all_uses_with(out, value)
        return value is not out

    def _value(self, node: ir.Node, sizes: Sizes) -> ir.Value:
        if sizes not in self.values:
            value = self._made(node, sizes)
            self.values[sizes] = value
            self.found[value] = sizes
        return self.values[sizes]

    def _made(self, node: ir.Node, sizes: Sizes) -> ir.Value:
        """`node` itself if it is the common form already, or a node in that form."""
        out, (first, *more) = node.outputs[0], sizes.entries
        names = [entry for entry in sizes.entries if isinstance(entry, str)]
        if any(name not in self.places for name in names) or (more and not self._indirect(node)):
            return out
        if more:
            parts = [self._part(entry) for entry in sizes.entries]
            vector = made("Concat", parts, f"{out.name}_sizes", (INT64, [len(parts)]), {"axis": 0})
            self.graph.insert_before(node, _node(vector))
            return vector
        assert isinstance(first, str)
        if sizes.scalar:
            return self._scalar(node, first)
        return out if self._measures(node, first) else self._ruler(first)

    def _indirect(self, node: ir.Node) -> bool:
        """Whether it measures a computed value, or reads who does."""
        return is_op(node, "Shape") and node.inputs[0] not in self.graph.inputs

    def _measures(self, node: ir.Node, name: str) -> bool:
        value, axis = self.places[name]
        bounds = (integer(node, "start", 0), integer(node, "end", -1))
        return is_op(node, "Shape") and node.inputs[0] is value and bounds == (axis, axis + 1)

    def _part(self, entry: Entry) -> ir.Value:
        if isinstance(entry, str):
            return self._ruler(entry)
        assert entry is not None
        return integers(self.graph, [entry])

    def _ruler(self, name: str) -> ir.Value:
        """`[1]`: the size of one axis, measured in front of all."""
        sizes = Sizes((name,))
        if sizes not in self.values:
            value, axis = self.places[name]
            bounds = {"start": axis, "end": axis + 1}
            ruler = made("Shape", [value], f"{value.name}_size_{axis}", (INT64, [1]), bounds)
            self.graph.insert_before(self.graph[0], _node(ruler))
            self.values[sizes] = ruler
            self.found[ruler] = sizes
        return self.values[sizes]

    def _scalar(self, node: ir.Node, name: str) -> ir.Value:
        ruler = self._ruler(name)
        axes = known(node.inputs[1]) if len(node.inputs) > 1 else None
        plain = is_op(node, "Squeeze") and (axes is None or axes.size == 1)
        if plain and node.inputs[0] is ruler:
            return node.outputs[0]
        scalar = made("Squeeze", [ruler], f"{ruler.name}_scalar", (INT64, []))
        self.graph.insert_after(_node(ruler), _node(scalar))
        return scalar


def _node(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node
