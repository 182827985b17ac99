"""What an ONNX graph of 16 bits computes in fp32 by its own will, and what for."""

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from engines.trt.attention import name_of

FLOAT = ir.DataType.FLOAT
HALVES = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
WHOLE = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}
SEARCHES = {"ArgMax", "ArgMin", "DiverseSelect", "Loop", "NonZero", "Select", "TokenSelect", "TopK"}
COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
NORMS = {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"}
PURPOSES = ("selection", "values", "tables", "norm", "fell")  # of a layer from several nodes: the first of theirs


def purposes(graph: ir.Graph) -> dict[str, str]:
    """Nodes that compute with floats, by name: what fp32 would be for; values must have types.

    "selection": what decides which tokens stay, here or, handed out in fp32, in another part. "tables": of positions
    and masks only. "values": anything else that is fp32 in the graph. "norm": a norm, whose statistics are always fp32.
    "fell": in 16 bits; fp32 is the builder's own choice there.
    """
    chosen, fed = _before_choices(graph), _fed(graph)
    found = {}
    for node in graph:
        if _wide(node):
            found[name_of(node)] = "selection" if node in chosen else "values" if node in fed else "tables"
            found |= {name_of(inner): found[name_of(node)] for inner in _inside(node)}
        elif any(value.dtype in HALVES for value in node.outputs):
            found[name_of(node)] = "norm" if node.op_type in NORMS else "fell"
    return found


def judging(graph: ir.Graph) -> set[str]:
    """Nodes in fp32 that only decide: nothing of what they compute goes on in 16 bits."""
    halves = [node for node in graph if any(value.dtype in HALVES for value in node.outputs)]
    going_on = _before(halves, {FLOAT})
    return {name_of(node) for node in _before_choices(graph) - going_on}


def halved(graph: ir.Graph) -> bool:
    """Whether a graph computes in 16 bits at all."""
    return any(value.dtype in HALVES for node in graph for value in node.outputs)


def _before_choices(graph: ir.Graph) -> set[ir.Node]:
    """Nodes from which a choice of tokens, or a score for one, is reached without passing 16 bits."""
    roots = [node for node in graph if node.op_type in SEARCHES or (node.op_type in COMPARISONS and _wide(node))]
    roots += [source for value in graph.outputs if value.dtype == FLOAT and (source := value.producer()) is not None]
    return _before(roots, {FLOAT, *WHOLE})


def _before(roots: Iterable[ir.Node], types: set[ir.DataType]) -> set[ir.Node]:
    """The nodes themselves, and all from which they are reached through values of these types alone."""
    found, stack = set[ir.Node](), list(roots)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            reads = (value for each in (node, *_inside(node)) for value in each.inputs)  # a body reads around it, too
            sources = (value.producer() for value in reads if value is not None and value.dtype in types)
            stack += [source for source in sources if source is not None]
    return found


def _fed(graph: ir.Graph) -> set[ir.Node]:
    """Nodes into which activations flow: what is 16 bits, or a float that the graph is given."""
    found: set[ir.Node] = set()
    for node in graph:
        values = [value for value in node.inputs if value is not None and not value.is_initializer()]
        if any(
            value.dtype in HALVES or value.producer() in found
            or (value.is_graph_input() and value.dtype == FLOAT)
            for value in values
        ):  # fmt: skip
            found.add(node)
    return found


def _wide(node: ir.Node) -> bool:
    """Whether a node, or one inside it, reads or writes fp32, weights aside."""
    return any(
        value is not None and value.dtype == FLOAT and not value.is_initializer()
        for each in (node, *_inside(node))
        for value in (*each.inputs, *each.outputs)
    )


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    """Nodes of a loop's body or a branch, at any depth."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield inner
                yield from _inside(inner)
