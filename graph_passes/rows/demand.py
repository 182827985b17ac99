"""What is wanted of every value, found in one walk against the order of the nodes; nothing is changed yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import onnx_ir as ir

from graph_passes.rows.gathers import check, whole
from graph_passes.rows.picks import Plan, Rows
from graph_passes.rows.rules import RULES
from graph_passes.rows.sinks import Sink, sink
from graph_passes.rows.sizes import Dim, Refused, excess, shape_of

MOST = Fraction(7, 8)  # of a node's rows: to drop fewer does not pay for the gathers
VIEWS = {"Transpose", "Unsqueeze", "Squeeze", "Reshape", "Slice", "Concat", "Identity"}  # compute nothing


@dataclass
class Demand:
    """Which selections are wanted of which value, and which nodes need to compute no more than that.

    `takers` are the nodes that take a selection as the graph stands; `moves` has, downstream nodes first, how every
    selection of a node's first output passes that node.
    """

    graph: ir.Graph
    takers: dict[ir.Value, dict[Rows, list[tuple[ir.Node, Sink]]]] = field(default_factory=dict)
    moves: dict[ir.Node, dict[Rows, Plan]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._whole = set(self.graph.outputs)  # values that someone reads all of
        for node in reversed(self.graph):
            self._visit(node)
        for node in reversed(list(self.moves)):
            if _idle(node, self.moves):
                del self.moves[node]

    def _visit(self, node: ir.Node) -> None:
        plans = self._plans(node, self.takers.get(node.outputs[0], {})) if node.outputs else None
        if plans is not None:
            self.moves[node] = plans
            for plan in plans.values():
                self._pass_on(node, plan)
            return
        found, inputs = sink(node), node.inputs
        if found is not None and not whole(found.value, found.rows):
            self._want(found.value, found.rows).append((node, found))
            inputs = inputs[1:]
        self._whole.update(value for value in inputs if value is not None)
        for body in (each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH):
            self._whole.update(value for inner in body.all_nodes() for value in inner.inputs if value is not None)
            self._whole.update(body.outputs)

    def _plans(self, node: ir.Node, wants: Mapping[Rows, object]) -> dict[Rows, Plan] | None:
        """How each selection passes the node; None if one does not, or if there is nothing to gain."""
        rule = RULES.get(node.op_type) if node.domain == "" else None
        read = node.outputs[0] in self._whole or any(out.uses() or out.is_graph_output() for out in node.outputs[1:])
        if rule is None or read or not wants or any(rows.open for rows in wants) or not _worth(node, wants):
            return None
        try:
            made = {rows: rule(node, rows) for rows in wants}
            for at, rows in (each for plan in made.values() for each in plan.read):
                check(node.inputs[at], rows)
        except Refused as reason:
            self.refusals.append(f"{node.op_type} {node.name}: {reason}")
            return None
        return made

    def _pass_on(self, node: ir.Node, plan: Plan) -> None:
        wanted = dict(plan.read)
        for at, value in enumerate(node.inputs):
            if value is None or plan.spares(at):
                continue
            if at in wanted and not whole(value, wanted[at]):
                self._want(value, wanted[at])
            else:
                self._whole.add(value)

    def _want(self, value: ir.Value, rows: Rows) -> list[tuple[ir.Node, Sink]]:
        return self.takers.setdefault(value, {}).setdefault(rows, [])


def _worth(node: ir.Node, wants: Mapping[Rows, object]) -> bool:
    """Whether the copies compute clearly less than the node; a length that is not constant needs proof."""
    shape = shape_of(node.outputs[0])
    sizes = [(rows.pick.count, shape[rows.axis]) for rows in wants]
    shares = [Fraction(count, size) for count, size in sizes if isinstance(count, int) and isinstance(size, int)]
    if len(shares) == len(sizes):
        return sum(shares) <= (1 if node.op_type in VIEWS else MOST)
    return len(sizes) == 1 and _fewer(*sizes[0])


def _fewer(count: Dim, size: Dim) -> bool:
    """Whether `count` is known to be less; one row of any number is taken to be."""
    if isinstance(count, int):
        return count == 1 and not isinstance(size, int)
    return (excess(size, count) or 0) > 0


def _idle(node: ir.Node, moves: Mapping[ir.Node, object]) -> bool:
    """Whether a node that computes nothing would only move, because what it reads does not."""
    plans: Mapping[Rows, Plan] = moves[node]  # type: ignore[assignment]
    if node.op_type not in VIEWS or (node.op_type == "Concat" and any(plan.cuts for plan in plans.values())):
        return False
    read = (node.inputs[at] for plan in plans.values() for at, _ in plan.read)
    return not any(value is not None and value.producer() in moves for value in read)
