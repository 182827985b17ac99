"""RotaryEmbedding as the arithmetic that it stands for."""

from __future__ import annotations

import onnx_ir as ir

from graph_passes.base import PassResult
from graph_passes.edit import dims, integer
from graph_passes.legalise.writer import Constants, Writer, decompose, given, size


def run(model: ir.Model) -> PassResult:
    """Decompose every `RotaryEmbedding` over `[B,H,n,d]` that turns halves.

    `[a*cos - b*sin, b*cos + a*sin, rest]` with `a`, `b` the halves of the first `rotary_embedding_dim` numbers.
    Refused: heads packed into one axis, interleaved pairs.
    """
    return decompose(model, "RotaryEmbedding", _refusal, _Work(model.graph).expand)


def _refusal(node: ir.Node) -> str:
    x = given(node, 0)
    if len(dims(x) or ()) != 4 or size(x, 3) is None:
        return "heads are packed into one axis, or their width is not known"
    return "it turns interleaved pairs" if integer(node, "interleaved", 0) else ""


class _Work:
    """The decompositions of one graph; tables that are shared stay so."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.constants = graph, Constants(graph)
        self._tables: dict[tuple[ir.Value, ir.Value | None], ir.Value] = {}

    def expand(self, node: ir.Node) -> None:
        """Replace one node."""
        write = Writer(node)
        x, cos, sin = (value for value in node.inputs[:3] if value is not None)
        shape, width = dims(x) or [], size(x, 3) or 0
        turned = integer(node, "rotary_embedding_dim", 0) or width
        half = [*shape[:3], turned // 2]
        a, b = self._slice(write, x, 0, turned // 2), self._slice(write, x, turned // 2, turned)
        rest = [self._slice(write, x, turned, width)] if turned < width else []
        cos, sin = (self._table(write, table, given(node, 3)) for table in (cos, sin))
        products = [write.op("Mul", pair, half) for pair in ([a, cos], [b, sin], [b, cos], [a, sin])]
        first, second = write.op("Sub", products[:2], half), write.op("Add", products[2:], half)
        write.replace(self.graph, write.op("Concat", [first, second, *rest], shape, axis=-1))

    def _slice(self, write: Writer, x: ir.Value, start: int, end: int) -> ir.Value:
        bounds = [self.constants.of([number]) for number in (start, end, 3)]
        return write.op("Slice", [x, *bounds], [*(dims(x) or [])[:3], end - start])

    def _table(self, write: Writer, table: ir.Value, places: ir.Value | None) -> ir.Value:
        """`[B,1,n,d/2]`, made where it is read first."""
        if (table, places) not in self._tables:
            known, found = dims(table), table
            if places is not None:
                known = [*(dims(places) or [None, None]), size(table, -1)]
                found = write.op("Gather", [table, places], known)
            batch, rows, half = known or [None, None, None]
            self._tables[table, places] = write.op("Unsqueeze", [found, self.constants.of([1])], [batch, 1, rows, half])
        return self._tables[table, places]
