"""New nodes, constants and names in a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from graph_passes.rows.sizes import Dim

INT64 = ir.DataType.INT64


class Emitter:
    """Adds nodes and constants to the end of a graph; whoever uses it sorts the graph afterwards."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._names = {value.name for node in graph.all_nodes() for value in node.outputs}
        self._names |= {node.name for node in graph.all_nodes()}
        self._names |= {value.name for value in (*graph.inputs, *graph.initializers.values())}
        self._copies: Counter[str] = Counter()
        self.made: set[ir.Value] = set()
        self._constants: dict[tuple[int, ...], ir.Value] = {}

    def fresh(self, base: str | None) -> str:
        """A name that no value has."""
        base = name = base or "rows"
        while name in self._names:
            self._copies[base] += 1
            name = f"{base}_rows{self._copies[base]}"
        self._names.add(name)
        return name

    def value(self, like: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """A new value of the dtype of `like`, that no node makes yet."""
        made = ir.Value(name=self.fresh(like.name), type=like.type, shape=ir.Shape(shape))
        self.made.add(made)
        return made

    def constant(self, numbers: Sequence[int]) -> ir.Value:
        """An int64 vector."""
        key = tuple(numbers)
        if key not in self._constants:
            tensor = ir.tensor(list(key), dtype=INT64, name=self.fresh("rows_" + "_".join(map(str, key))))
            made = ir.Value(name=tensor.name, const_value=tensor, type=ir.TensorType(INT64), shape=ir.Shape([len(key)]))
            self.graph.register_initializer(made)
            self._constants[key] = made
        return self._constants[key]

    def node(self, kind: str, inputs: Sequence[ir.Value], out: ir.Value, **attributes: int) -> ir.Value:
        """Append a node that makes `out`."""
        self.graph.append(ir.node(kind, inputs, attributes, outputs=[out], name=self.fresh(f"{out.name}_{kind}")))
        return out
