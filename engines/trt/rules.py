"""Whether a version of TensorRT reads a graph, said without TensorRT: before anyone copies weights to a board."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx_ir as ir

from engines.trt.limits import LEAST_SM, LIMITS, MOST_AXES, given, known
from engines.trt.versions import Version

REMEDIES = {
    "Attention": "build for this version, which writes it out",
    "RMSNormalization": "build for this version, which writes it out",
    "RotaryEmbedding": "build for this version, which writes it out",
    "TensorScatter": "export with --opset 23",
}
TYPED = {"Where": 1}  # operators whose first input is not the one whose type counts


def check(onnx: Path, version: Version, sm: int | None = None) -> list[str]:
    """What a version refuses of a graph, and what to do.

    Args:
        onnx: The graph; its weights need not be there.
        version: Who is to read it.
        sm: Compute capability of the GPU, such as 87; None leaves types that need a certain one alone.

    Returns:
        One line for each kind of node and reason, with their number and the first one's name; empty if all is well.
    """
    model = ir.load(onnx)
    opset = model.opset_imports.get("", 0)
    lines = []
    if version.opset and opset > version.opset:
        lines.append(f"opset {opset}: {version.label} reads up to {version.opset}; build for it, or export lower")
    found: dict[tuple[str, str], list[str]] = {}
    for node in model.graph.all_nodes():
        for reason in _reasons(node, version, sm, model):
            found.setdefault((node.op_type, reason), []).append(node.name or str(node.outputs[0].name))
    lines += [f"{kind} ({_count(names)}): {reason}" for (kind, reason), names in found.items()]
    return lines + _sums(model.graph.all_nodes(), version)


def _reasons(node: ir.Node, version: Version, sm: int | None, model: ir.Model) -> Iterator[str]:
    if node.domain not in {"", "ai.onnx"}:
        if node.op_identifier() not in model.functions:
            yield f"the file does not say what '{node.domain}' means by it; give --plugin"
        return
    if node.op_type not in version.types:
        yield f"{version.label} does not know it; {REMEDIES.get(node.op_type, 'write it with others')}"
        return
    rules = (_type(node, version), _constant(node, version), _generation(node, sm), _shape(node), _name(node))
    yield from filter(None, rules)
    if node.op_type in LIMITS and (reason := LIMITS[node.op_type](node, version)):
        yield reason


def _type(node: ir.Node, version: Version) -> str:
    value = given(node, TYPED.get(node.op_type, 0))
    if value is None or value.dtype is None or value.dtype.name in version.types[node.op_type]:
        return ""
    return f"not of type {value.dtype.name.lower()} in {version.label}: cast before it"


def _constant(node: ir.Node, version: Version) -> str:
    place = version.constants.get(node.op_type)
    value = None if place is None else given(node, place)
    return f"its input {place} must be a constant" if value is not None and known(value) is None else ""


def _generation(node: ir.Node, sm: int | None) -> str:
    for value in node.inputs:
        least = LEAST_SM.get("" if value is None or value.dtype is None else value.dtype.name, 0)
        if value is not None and value.dtype is not None and sm is not None and sm < least:
            return f"{value.dtype.name.lower()} needs a GPU from SM{least} on, not SM{sm}"
    return ""


def _shape(node: ir.Node) -> str:
    deep = any(value and value.shape and len(value.shape) > MOST_AXES for value in (*node.inputs, *node.outputs))
    return f"more than {MOST_AXES} dimensions" if deep else ""


def _name(node: ir.Node) -> str:
    return "a tensor is called '_', which is taken: rename it" if any(v.name == "_" for v in node.outputs) else ""


def _sums(nodes: Iterable[ir.Node], version: Version) -> list[str]:
    """Versions that sum along the same axis in the same direction, whatever the second of two CumSums says."""
    ways = {
        (str(known(given(node, 1))), *sorted((key, a.as_int()) for key, a in node.attributes.items() if a.as_int()))
        for node in nodes
        if node.op_type == "CumSum"
    }
    wrong = len(ways) > 1 and not version.cumsums
    return [f"CumSum: {version.label} is known to mix up axes and directions where they differ"] if wrong else []


def _count(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} nodes, the first is {names[0]}"
