"""Lower the markers of serial searches to ONNX loops, so that every runtime can run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
from onnx_ir import convenience

from graph_passes.base import PassResult
from graph_passes.loops import DETERMINANT, FACILITY, GREEDY, PEEL, SEARCH

DOMAIN = "tp.export"
SEARCHES = {  # the forms whose rounds read one row of the matrix and no more: those that a plugin knows
    "max-min": SEARCH.replace("{join}", "Min").replace("{first}", "1e38"),
    "max-sum": SEARCH.replace("{join}", "Add").replace("{first}", "0"),
}
FORMS = {form: GREEDY + text for form, text in {**SEARCHES, "facility": FACILITY, "determinant": DETERMINANT}.items()}


def run(model: ir.Model, spared: str = "") -> PassResult:
    """Replace `tp.export::DiverseSelect(matrix, start)` and `tp.export::Peel(matrix)` by a Loop each.

    The trip count is a constant and the picks are a scan output, so no shape depends on data; the matrix is read from
    the outer graph. Leading axes are one batch axis. Markers of the form `spared` stay.
    """
    markers = [node for node in model.graph if node.domain == DOMAIN and node.op_type in TEXTS]
    markers = [node for node in markers if node.attributes.get_string("form", "") != spared or not spared]
    for marker in markers:
        _splice(model.graph, marker, ir.from_onnx_text(TEXTS[marker.op_type](marker)))
    if not any(node.domain == DOMAIN for node in model.graph):
        model.opset_imports.pop(DOMAIN, None)
    return PassResult(len(markers))


def rest(model: ir.Model) -> PassResult:
    """Replace what no plugin knows, and what is of another form than the first that one knows."""
    forms = [node.attributes.get_string("form", "") for node in model.graph if node.domain == DOMAIN]
    return run(model, next((form for form in forms if form in SEARCHES), ""))


def _diverse(marker: ir.Node) -> str:
    keep = marker.attributes["k"].as_int()
    return FORMS[marker.attributes["form"].as_string()].format(n=_width(marker), k=keep)


def _peel(marker: ir.Node) -> str:
    width, keep = _width(marker), marker.attributes["k"].as_int()
    alive, drop = marker.attributes["alive"].as_ints(), marker.attributes["drop"].as_ints()
    half = width // 2
    tables = {"alive": alive, "drop": drop, "places": range(width), "even": range(0, width, 2)}
    tables["odd"] = range(1, width, 2)
    listed = {name: ", ".join(map(str, numbers)) for name, numbers in tables.items()}
    return PEEL.format(n=width, k=keep, half=half, trips=len(alive), **listed)


TEXTS: Mapping[str, Callable[[ir.Node], str]] = {"DiverseSelect": _diverse, "Peel": _peel}


def _width(marker: ir.Node) -> int:
    matrix = marker.inputs[0]
    assert matrix is not None
    assert matrix.shape is not None
    width = matrix.shape[-1]
    assert isinstance(width, int)
    return width


def _splice(graph: ir.Graph, marker: ir.Node, inner: ir.Model) -> None:
    """Move the nodes of `inner`, whose inputs and output are the marker's, into the graph."""
    name = marker.outputs[0].name
    for node in inner.graph.all_nodes():
        for value in (*node.outputs, *(v for body in _bodies(node) for v in body.inputs)):
            value.name = f"{name}_{value.name}"
        node.name = node.outputs[0].name
    for own, given in zip(inner.graph.inputs, marker.inputs, strict=True):
        assert given is not None
        convenience.replace_all_uses_with(own, given)
    for value in list(inner.graph.initializers.values()):
        if value.uses():
            constant = ir.Value(
                name=f"{name}_{value.name}", type=value.type, shape=value.shape, const_value=value.const_value
            )
            convenience.replace_all_uses_with(value, constant)
            graph.register_initializer(constant)
    nodes, picks = list(inner.graph), inner.graph.outputs[0]
    inner.graph.outputs.clear()
    inner.graph.remove(nodes)
    picks.shape = marker.outputs[0].shape
    convenience.replace_nodes_and_values(graph, marker, [marker], nodes, [marker.outputs[0]], [picks])


def _bodies(node: ir.Node) -> list[ir.Graph]:
    return [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
