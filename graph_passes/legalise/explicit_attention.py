"""Attention as MatMul, Softmax and MatMul: what runtimes before opset 23 know, and what they fuse again."""

from __future__ import annotations

import math

import onnx_ir as ir

from graph_passes.base import PassResult
from graph_passes.edit import dims, integer
from graph_passes.legalise.writer import Constants, Dims, Writer, decompose, given, size

BOOL, FLOAT = ir.DataType.BOOL, ir.DataType.FLOAT


def run(model: ir.Model) -> PassResult:
    """Decompose every `Attention` over `[B,H,n,d]`.

    `softmax(q*scale @ k^T + mask) @ v`, with grouped keys repeated and a boolean mask made additive once for all its
    readers: the form that TensorRT fuses. A masked key gets half of the lowest number, so that no sum overflows; a row
    that sees no key at all is zero in Attention and a mean here. Refused: heads packed into one axis, a past,
    further outputs, a soft cap, a mask that is narrower than the keys.
    """
    return decompose(model, "Attention", _refusal, _Work(model.graph).expand)


def _refusal(node: ir.Node) -> str:
    """Why a node stays, in words; nothing if it need not."""
    q, k, mask = (given(node, place) for place in (0, 1, 3))
    shapes = [dims(given(node, place)) for place in range(3)]
    if None in shapes or q is None or q.dtype is None:
        return "its shapes or its type are not known"
    if any(len(shape) != 4 for shape in shapes if shape):
        return "heads are packed into one axis"
    if given(node, 4) is not None or given(node, 5) is not None or len(node.outputs) > 1:
        return "it has a past, or more than one output"
    softcap = node.attributes.get("softcap")
    if softcap is not None and softcap.as_float() != 0:
        return "it has a soft cap"
    heads, grouped = size(q, 1), size(k, 1)
    if heads is None or not grouped or heads % grouped or size(q, 3) is None:
        return "the number of heads or their width is not known"
    wide = size(mask, -1)
    return "its mask is not as wide as the keys" if wide is not None and wide != size(k, 2) else ""


class _Work:
    """The decompositions of one graph; masks that are shared stay so."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.constants = graph, Constants(graph)
        self._additive: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def expand(self, node: ir.Node) -> None:
        """Replace one node."""
        write = Writer(node)
        q, k, v = (value for value in node.inputs[:3] if value is not None)
        dtype, (batch, heads, rows, width) = q.dtype or FLOAT, dims(q) or []
        attribute = node.attributes.get("scale")
        scale = 1 / math.sqrt(int(width or 1)) if attribute is None else attribute.as_float()
        keys, values = self._repeated(write, k, int(heads or 1)), self._repeated(write, v, int(heads or 1))
        columns = (dims(k) or [])[2]
        turned = write.op("Transpose", [keys], [batch, heads, width, columns], perm=[0, 1, 3, 2])
        scaled = write.op("Mul", [q, self.constants.of(scale, dtype)], dims(q))
        scores = write.op("MatMul", [scaled, turned], [batch, heads, rows, columns])
        for added in self._masks(write, node, q, k, dtype):
            scores = write.op("Add", [scores, added], dims(scores))
        inside = ir.DataType(integer(node, "softmax_precision", 0) or dtype)
        exact = write.cast(scores, inside)
        shares = write.cast(write.op("Softmax", [exact], dims(exact), axis=-1), dtype)
        write.replace(self.graph, write.op("MatMul", [shares, values], dims(node.outputs[0])))

    def _repeated(self, write: Writer, grouped: ir.Value, heads: int) -> ir.Value:
        """`[B,Hkv,n,d]` as `[B,H,n,d]`."""
        batch, few, rows, width = dims(grouped) or []
        times = heads // int(few or heads)
        if times == 1:
            return grouped
        each = write.op("Unsqueeze", [grouped, self.constants.of([2])], [batch, few, 1, rows, width])
        to = self.constants.of([1, 1, times, 1, 1])
        wide = write.op("Expand", [each, to], [batch, few, times, rows, width])
        shape = self.constants.of([0, heads, -1, int(width or 0)])
        return write.op("Reshape", [wide, shape], [batch, heads, rows, width])

    def _masks(self, write: Writer, node: ir.Node, q: ir.Value, k: ir.Value, dtype: ir.DataType) -> list[ir.Value]:
        """What is added to logits, in their type; a mask is made additive where it is read first."""
        found, mask = [], given(node, 3)
        if mask is not None:
            if (mask, dtype) not in self._additive:
                boolean = mask.dtype == BOOL
                made = self._chosen(write, mask, dtype) if boolean else write.cast(mask, dtype)
                self._additive[mask, dtype] = made
            found.append(self._additive[mask, dtype])
        if integer(node, "is_causal", 0):
            found.append(self._chosen(write, self._causal(write, q, k), dtype))
        return found

    def _chosen(self, write: Writer, seen: ir.Value, dtype: ir.DataType) -> ir.Value:
        zero, lowest = self.constants.of(0, dtype), self.constants.of(float(dtype.min) / 2, dtype)
        return write.op("Where", [seen, zero, lowest], dims(seen), dtype)

    def _causal(self, write: Writer, q: ir.Value, k: ir.Value) -> ir.Value:
        """`[n,m]` bool: key j is not behind query i."""
        rows, columns = self._places(write, q), self._places(write, k)
        n, m = (dims(rows) or [None])[0], (dims(columns) or [None])[0]
        upright = write.op("Unsqueeze", [rows, self.constants.of([1])], [n, 1])
        return write.op("GreaterOrEqual", [upright, columns], [n, m], BOOL)

    def _places(self, write: Writer, value: ir.Value) -> ir.Value:
        """0, 1, 2 … along the rows of `[B,H,n,d]`."""
        rows: Dims = [(dims(value) or [])[2]]
        if isinstance(rows[0], int):
            return self.constants.of(range(rows[0]))
        zero, one = self.constants.of(0), self.constants.of(1)
        length = write.op("Shape", [value], [1], zero.dtype, start=2, end=3)
        end = write.op("Squeeze", [length, self.constants.of([0])], [])
        return write.op("Range", [zero, end, one], rows)
