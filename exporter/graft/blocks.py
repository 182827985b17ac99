"""The transformer inside a graph: its attentions, its residual stream, its patches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from engines.errors import UserError
from exporter.reducer import Grid

MOST_IN_FRONT = 16  # rows in front of the patches


@dataclass(frozen=True)
class Attention:
    """One attention: `q` and `v` `[B,H,N,d]`, `k` likewise or turned, `[B,H,d,N]`; `place` of its node in the graph."""

    node: ir.Node
    place: int
    q: ir.Value
    k: ir.Value
    v: ir.Value
    scale: float
    turned: bool

    @property
    def rows(self) -> tuple[int, int]:
        """Queries and keys."""
        keys = _dims(self.k)
        return _dims(self.q)[2], keys[3] if self.turned else keys[2]


@dataclass(frozen=True)
class Block:
    """A layer: what it reads, its residual stream behind attention and behind the MLP, `[B,N,C]` each."""

    attention: Attention
    before: ir.Value
    mid: ir.Value | None
    after: ir.Value


@dataclass(frozen=True)
class Tower:
    """Layers over `front` rows ([CLS], registers) and the patches of a grid behind them."""

    blocks: tuple[Block, ...]
    front: int
    grid: Grid
    heads: int
    bare: bool  # its output is the residual stream itself

    @property
    def patches(self) -> int:
        """Prunable rows."""
        return self.grid.rows * self.grid.cols

    @property
    def has_cls(self) -> bool:
        """Whether row 0 is a [CLS] token; four or eight rows in front are registers alone."""
        return self.front % 4 in {1, 2}


def find(graph: ir.Graph) -> Tower:
    """The tower of a graph whose shapes are settled.

    Raises:
        UserError: no attention, several kinds of it, or no residual stream around it.
    """
    own = [each for each in _attentions(graph) if each.rows[0] == each.rows[1] > 1]
    if not own:
        raise UserError("no attention over tokens was found in this model: graft cuts vision transformers")
    rows = {each.rows[0] for each in own}
    if len(rows) > 1 or any(each.q.shape is None or isinstance(each.q.shape[0], int) != _static(graph) for each in own):
        sizes = ", ".join(map(str, sorted(rows)))
        raise UserError(f"attention over {sizes} rows or inside windows ({own[0].node.name}): graft cuts one plain ViT")
    length = rows.pop()
    blocks = _blocks(graph, own, length)
    front, grid = _patches(graph, blocks[0].before, length)
    bare = all(value is blocks[-1].after or _only_sliced(value, blocks[-1].after) for value in graph.outputs)
    return Tower(tuple(blocks), front, grid, _dims(own[0].q)[1], bare)


def _static(graph: ir.Graph) -> bool:
    return all(value.shape is not None and isinstance(value.shape[0], int) for value in graph.inputs)


def _attentions(graph: ir.Graph) -> Iterator[Attention]:
    for place, node in enumerate(graph):
        found = None
        if node.op_type == "Attention":
            found = _fused(node, place)
        elif node.op_type == "Softmax":
            found = _explicit(node, place)
        if found is not None and all(len(_dims(v)) == 4 for v in (found.q, found.k, found.v)):
            yield found


def _fused(node: ir.Node, place: int) -> Attention | None:
    q, k, v = node.inputs[:3]
    extra = [each for each in node.inputs[3:] if each is not None]
    if q is None or k is None or v is None or len(_dims(q)) != 4 or extra:
        return None
    scale = node.attributes["scale"].as_float() if "scale" in node.attributes else 1 / math.sqrt(_dims(q)[3])
    return Attention(node, place, q, k, v, scale, turned=False)


def _explicit(node: ir.Node, place: int) -> Attention | None:
    """MatMul(q, k turned), scaled before or behind, Softmax, MatMul with v."""
    logits, scale = _unscaled(node.inputs[0])
    product = None if logits is None else logits.producer()
    users = [u for u in node.outputs[0].consumers() if u.op_type == "MatMul" and u.inputs[0] is node.outputs[0]]
    if product is None or product.op_type != "MatMul" or len(users) != 1:
        return None
    (q, first), (k, second) = (_unscaled(each) for each in product.inputs)
    v = users[0].inputs[1]
    if q is None or k is None or v is None:
        return None
    return Attention(node, place, q, k, v, scale * first * second, turned=True)


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """A value without the constant factors it was multiplied by."""
    scale = 1.0
    while value is not None and (node := value.producer()) is not None and node.op_type in {"Mul", "Div"}:
        left, right = node.inputs
        if node.op_type == "Mul" and _scalar(left) is not None:
            left, right = right, left
        factor = _scalar(right)
        if factor is None:
            break
        scale = scale * factor if node.op_type == "Mul" else scale / factor
        value = left
    return value, scale


def _scalar(value: ir.Value | None) -> float | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _blocks(graph: ir.Graph, own: list[Attention], length: int) -> list[Block]:
    """Each attention with the narrow places around it."""
    narrow = [(place, value) for place, value in _narrow(graph) if _is_stream(value, length)]
    ends = [*(each.place for each in own), len(graph)]
    before = [value for place, value in narrow if place < ends[0]]
    behind = [[value for place, value in narrow if low < place < high] for low, high in pairwise(ends)]
    count = len(behind[0]) if len(own) > 1 else min(2, len(behind[0]))
    if not before or not count or any(len(each) < count for each in behind):
        raise UserError(f"no residual stream was found around {own[0].node.name or 'attention'}: not a plain ViT")
    after = [each[count - 1] for each in behind]
    mids = [each[0] if count > 1 else None for each in behind]
    return [Block(*each) for each in zip(own, [before[-1], *after[:-1]], mids, after, strict=True)]


def _narrow(graph: ir.Graph) -> Iterator[tuple[int, ir.Value]]:
    """Where everything that was computed from the inputs and is still read is one value."""
    nodes = list(graph)
    place = {node: number for number, node in enumerate(nodes)}
    data = set(graph.inputs)
    last = {}
    for node in nodes:
        if node.op_type != "Shape" and any(value in data for value in node.inputs):
            data.update(node.outputs)
    for value in data:
        last[value] = max((place[user] for user in value.consumers() if user in place), default=-1)
    ending: dict[int, int] = {}
    live = 0
    for value in graph.inputs:
        live += last[value] >= 0
        ending[last[value]] = ending.get(last[value], 0) + 1
    for number, node in enumerate(nodes):
        live -= ending.pop(number, 0)
        for value in node.outputs:
            if value in data and (last[value] > number or value in graph.outputs):
                live += last[value] > number
                ending[last[value]] = ending.get(last[value], 0) + (last[value] > number)
                if live == (last[value] > number):
                    yield number, value


def _is_stream(value: ir.Value, length: int) -> bool:
    shape = value.shape
    return shape is not None and len(shape) == 3 and shape[1] == length and isinstance(shape[2], int)


def _patches(graph: ir.Graph, start: ir.Value, length: int) -> tuple[int, Grid]:
    """Rows in front of the patches, and the patches' grid: of the convolution that makes them, else a square."""
    grids = [Grid(*_dims(n.outputs[0])[2:]) for n in graph if n.op_type == "Conv" and len(_dims(n.outputs[0])) == 4]
    fitting = [grid for grid in grids[:1] if 0 <= length - grid.rows * grid.cols <= MOST_IN_FRONT]
    side = math.isqrt(length)
    grid = fitting[0] if fitting else Grid(side, side)
    front = length - grid.rows * grid.cols
    if front and not _joined(graph, length, grid.rows * grid.cols):
        raise UserError(f"{length} rows, {start.name}: cannot tell which of them are the patches of a {grid} grid")
    return front, grid


def _joined(graph: ir.Graph, length: int, patches: int) -> bool:
    """Whether patches are put behind what stands in front of them."""
    for node in graph:
        if node.op_type == "Concat" and _rows(node.inputs[-1]) == patches and _rows(node.outputs[0]) in {length, None}:
            return True
    return False


def _rows(value: ir.Value | None) -> object:
    dims = [] if value is None or value.shape is None else list(value.shape)
    return dims[1] if len(dims) == 3 and isinstance(dims[1], int) else None


def _only_sliced(value: ir.Value, stream: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in {"Slice", "Identity"} and node.inputs[0] is stream


def _dims(value: ir.Value | None) -> list[int]:
    """The sizes, -1 for open ones; none where they are not known."""
    if value is None or value.shape is None:
        return []
    return [dim if isinstance(dim, int) else -1 for dim in value.shape]
