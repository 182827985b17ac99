"""Selection markers become calls of model-local functions: a runtime inlines their bodies or puts a plugin in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import onnx_ir as ir
from onnx_ir import convenience

from graph_passes.adjacent import adjacent
from graph_passes.base import PassResult
from graph_passes.lower_diverse import SEARCHES
from graph_passes.lower_select import DOMAIN, pair

NAMESPACE = "plugin_namespace"
SEARCH_HEAD = """<domain: "tp.export", opset_import: ["" : 23]> DiverseSelect (matrix, start) => (picks)
{
  count = Constant <value_ints: ints = @k> ()
  trips = Squeeze(count)
  always = Constant <value = bool {1}> ()
  one = Constant <value = int64[1] {1}> ()
  gone = Constant <value = float[2] {0, -1e38}> ()
  width = Shape <start = 1> (start)
"""


def run(model: ir.Model) -> PassResult:
    """Turn `Select` and `DiverseSelect` markers into calls of functions in domain `tp.export`: the last pass of all.

    A Select and the one gather of rows that reads it become `TokenSelect(scores, tokens) -> kept, indices`; refusals
    say where there is none. Bodies are what the lowering passes write, at the opset of the graph, for any length: `k`
    is an attribute, a list of one number, and so is the number of leading axes, `batch_dims`. TensorRT looks plugins
    up by `plugin_namespace`; `dynamic` and `form` are theirs, too. A function has one body: all searches of a graph are
    of one form.
    """
    markers = [node for node in model.graph if _taken(node)]
    refusals = []
    for marker in markers:
        gather = adjacent(marker) if marker.op_type == "Select" else None
        if isinstance(gather, str):
            refusals.append(f"{marker.outputs[0].name} stays Select: {gather}")
        call = _with_rows(model.graph, marker, gather) if isinstance(gather, ir.Node) else marker
        _attributes(call, marker.attributes["k"].as_int())
        key = (DOMAIN, call.op_type, "")
        if key not in model.functions:
            model.functions[key] = _function(call, model.opset_imports[""])
    if markers:
        model.graph.sort()
    return PassResult(len(markers), tuple(refusals))


def twin(model: ir.Model) -> ir.Model | None:
    """A copy of a graph that has markers which `run` takes, to be finished in another way; the weights are shared."""
    if not any(_taken(node) for node in model.graph):
        return None
    more = {key: getattr(model, key) for key in ("producer_name", "producer_version")}
    return ir.Model(model.graph.clone(), ir_version=model.ir_version, **more)


def _taken(node: ir.Node) -> bool:
    """Whether a node is a marker that a plugin knows, and no call yet."""
    if node.domain != DOMAIN or NAMESPACE in node.attributes:
        return False
    return node.op_type == "Select" or node.attributes.get_string("form", "") in SEARCHES


def _attributes(call: ir.Node, k: int) -> None:
    """What a call says, and a plugin reads."""
    told = (ir.AttrInt64s("k", [k]), ir.AttrInt64("dynamic", 0), ir.AttrString(NAMESPACE, DOMAIN))
    call.attributes.update({attribute.name: attribute for attribute in told})


def _with_rows(graph: ir.Graph, marker: ir.Node, gather: ir.Node) -> ir.Node:
    """One call for a marker and its gather, in the gather's place."""
    kept, indices = gather.outputs[0], marker.outputs[0]
    new = [ir.Value(name=each.name, type=each.type, shape=each.shape) for each in (kept, indices)]
    inputs = [marker.inputs[0], gather.inputs[0]]
    axes = [gather.attributes["batch_dims"]]
    call = ir.Node(DOMAIN, "TokenSelect", inputs, axes, outputs=new, name=marker.name)
    [column] = [value for value in gather.inputs[1:] if value is not None]
    unsqueeze = column.producer()
    assert unsqueeze is not None
    last = unsqueeze.inputs[1]
    convenience.replace_nodes_and_values(graph, gather, [gather, unsqueeze, marker], [call], [kept, indices], new)
    if last is not None and last.is_initializer() and not last.uses():
        del graph.initializers[str(last.name)]
    return call


def _function(call: ir.Node, opset: int) -> ir.Function:
    """The function of a call; the nodes of its body are named after it."""
    graph = BODIES[call.op_type](call)
    graph.opset_imports.clear()
    graph.opset_imports[""] = opset
    for node in ir.traversal.RecursiveGraphIterator(graph):
        node.name = f"{call.op_type}/{node.outputs[0].name}"
    declared = [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in call.attributes]
    return ir.Function(DOMAIN, call.op_type, graph=graph, attributes=declared)


def _select(_: ir.Node) -> ir.Graph:
    scores, ranked, nodes = _ranking()
    return ir.Graph([scores], [ranked], nodes=nodes)


def _token_select(_: ir.Node) -> ir.Graph:
    scores, indices, nodes = _ranking()
    tokens = ir.Value(name="tokens")
    last = ir.node("Constant", [], {"value_ints": [-1]}, outputs=[ir.Value(name="last")])
    column = ir.node("Unsqueeze", [indices, last.outputs[0]], outputs=[ir.Value(name="column")])
    rows = [tokens, column.outputs[0]]
    gather = ir.node("GatherND", rows, outputs=[ir.Value(name="kept")])
    gather.attributes["batch_dims"] = ir.RefAttr("batch_dims", "batch_dims", ir.AttributeType.INT)
    return ir.Graph([scores, tokens], [gather.outputs[0], indices], nodes=[*nodes, last, column, gather])


def _ranking() -> tuple[ir.Value, ir.Value, list[ir.Node]]:
    """Scores, the indices of the best, and the nodes between."""
    scores, k = ir.Value(name="scores"), ir.Value(name="k")
    count = ir.node("Constant", [], outputs=[k])
    count.attributes["value_ints"] = ir.RefAttr("value_ints", "k", ir.AttributeType.INTS)
    best, ascending = pair("select", scores, k)
    return scores, ascending.outputs[0], [count, best, ascending]


def _search(call: ir.Node) -> ir.Graph:
    body = SEARCHES[call.attributes["form"].as_string()].format(n="?").removeprefix("{")
    return ir.serde.deserialize_function(onnx.parser.parse_function(SEARCH_HEAD + body)).graph


BODIES: Mapping[str, Callable[[ir.Node], ir.Graph]] = {
    "Select": _select,
    "TokenSelect": _token_select,
    "DiverseSelect": _search,
}
