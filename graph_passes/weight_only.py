"""Weights of linear layers as whole numbers: DequantizeLinear in the place of an initialiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graph_passes.base import PassResult
from graph_passes.edit import is_op

LEAST = {ir.DataType.INT4: 21, ir.DataType.INT8: 13}  # opset that DequantizeLinear reads the type from
BLOCKS = 21  # opset of several scales for one column
VIEWS = ("Cast", "Squeeze", "Reshape", "Identity")
HALVES = 19  # opset of scales in 16 bits


@dataclass(frozen=True)
class Linear:
    """The matrix of a linear layer: `x @ W.T` for an initialiser W `[out,in]`.

    Attributes:
        weight: the initialiser.
        product: `W.T` `[in,out]` in the graph's float type, as MatMul reads it.
        path: the nodes from one to the other: perhaps a Cast, and a Transpose.
    """

    weight: ir.Value
    product: ir.Value
    path: tuple[ir.Node, ...]

    @property
    def shape(self) -> list[int]:
        """`[in,out]`."""
        assert self.weight.const_value is not None
        out, width = (int(size) for size in self.weight.const_value.shape.numpy())
        return [width, out]

    @property
    def last(self) -> bool:
        """Whether a product with it is an output of the graph, perhaps in another view: the head of a decoder."""
        waiting = [use.node.outputs[0] for use in self.product.uses()]
        while waiting:
            value = waiting.pop()
            if value.is_graph_output():
                return True
            waiting += [use.node.outputs[0] for use in value.uses() if is_op(use.node, *VIEWS)]
        return False


@dataclass(frozen=True)
class Packed:
    """What stands for a matrix.

    Attributes:
        codes: int4 or int8 `[in,out]`.
        scales: `[in/block,out]`, or `[out]` where `block` is 0; their type is that of the numbers that come out.
        block: numbers of a column that share a scale; 0: all of them.
    """

    codes: ir.TensorProtocol
    scales: ir.TensorProtocol
    block: int = 0


def linears(model: ir.Model) -> tuple[dict[str, Linear], dict[str, str]]:
    """The matrices that may be put in other words, and of every other 2-D weight outside the file why not, by name."""
    found, others = dict[str, Linear](), dict[str, str]()
    for name, value in model.graph.initializers.items():
        if not isinstance(value.const_value, ir.ExternalTensor) or len(value.const_value.shape) != 2:
            continue
        path = _path(value)
        if isinstance(path, str):
            others[name] = path
        else:
            found[name] = Linear(value, path[-1].outputs[0], path)
    return found, others


def run(model: ir.Model, packed: Mapping[str, Packed]) -> PassResult:
    """Read each named matrix from its codes: `x @ W.T` becomes `x @ DequantizeLinear(codes, scales)`.

    Exact in that all nodes but this one stay as they are; the numbers of W are now those of its codes. Nothing of W,
    its Cast and its Transpose stays in the graph. Refused name by name where the opset has no such DequantizeLinear,
    where types or sizes differ, and where anything but a linear layer reads the weight.
    """
    known, others = linears(model)
    opset, rewrites, refusals = model.opset_imports.get("", 0), 0, list[str]()
    for name, wanted in packed.items():
        reason = others.get(name, "") if name not in known else _unfit(known[name], wanted, opset)
        if name not in known or reason:
            refusals.append(f"{name}: {reason or 'no 2-D weight outside the file has this name'}")
            continue
        _replace(model.graph, known[name], wanted)
        rewrites += 1
    return PassResult(rewrites, tuple(refusals))


def _path(weight: ir.Value) -> tuple[ir.Node, ...] | str:
    """The nodes between a weight and MatMul, or why this is no linear layer's matrix."""
    path, value = list[ir.Node](), weight
    for kind in ("Cast", "Transpose"):
        uses = tuple(value.uses())
        if value.is_graph_output() or not uses:
            return f"{value.name} is read by nobody, or from outside"
        if len(uses) == 1 and is_op(uses[0].node, kind):
            path.append(uses[0].node)
            value = uses[0].node.outputs[0]
        elif kind == "Transpose":
            other = next((use.node for use in uses if not is_op(use.node, kind)), uses[0].node)
            return f"{other.op_type} {other.name} reads {value.name} as it lies"
    perm = path[-1].attributes.get("perm")
    if perm is not None and list(perm.as_ints()) != [1, 0]:
        return f"Transpose {path[-1].name} turns nothing"
    if value.is_graph_output() or not value.uses():
        return f"Transpose {path[-1].name} is read by nobody, or from outside"
    if odd := [use.node for use in value.uses() if not (is_op(use.node, "MatMul") and use.idx == 1)]:
        return f"{odd[0].op_type} {odd[0].name} is no product with it from the right"
    return tuple(path)


def _unfit(linear: Linear, wanted: Packed, opset: int) -> str:
    """Why a matrix cannot be read from these codes; empty if it can."""
    kind, floats = wanted.codes.dtype, wanted.scales.dtype
    wide = linear.shape
    if kind not in LEAST:
        return f"codes are {kind.name.lower()}, not int4 or int8"
    least = max(LEAST[kind], BLOCKS if wanted.block else 0, HALVES if floats != ir.DataType.FLOAT else 0)
    if opset < least:
        return f"MatMul {_reader(linear)}: DequantizeLinear reads such codes from opset {least} on, this is {opset}"
    scales = [wide[0] // wanted.block, wide[1]] if wanted.block else [wide[1]]
    if list(wanted.codes.shape) != wide or list(wanted.scales.shape) != scales or wide[0] % (wanted.block or 1):
        return f"MatMul {_reader(linear)} takes {wide}, codes are {list(wanted.codes.shape)} with other scales"
    if linear.product.dtype not in {None, floats}:
        return f"MatMul {_reader(linear)} takes another float type than the scales' {floats.name}"
    return ""


def _reader(linear: Linear) -> str:
    return next(str(use.node.name) for use in linear.product.uses())


def _replace(graph: ir.Graph, linear: Linear, wanted: Packed) -> None:
    """Put codes, scales and their node in the place of the weight and its path."""
    name, old = str(linear.weight.name), linear.product
    codes, scales = (
        ir.val(f"{name}{end}", const_value=tensor)
        for end, tensor in ((".codes", wanted.codes), (".scales", wanted.scales))
    )
    attributes = {"axis": 0, "block_size": wanted.block} if wanted.block else {"axis": 1}
    node = ir.node("DequantizeLinear", [codes, scales], attributes, name=f"{name}_dequantised")
    new = node.outputs[0]
    new.name, new.dtype, new.shape = f"{name}_dequantised", wanted.scales.dtype, ir.Shape(linear.shape)
    graph.insert_before(linear.path[-1], node)
    for use in tuple(old.uses()):
        use.node.replace_input_with(use.idx, new)
    graph.remove(linear.path, safe=True)
    del graph.initializers[name]
    graph.register_initializer(codes)
    graph.register_initializer(scales)
