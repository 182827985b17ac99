"""Row demand: what is dropped later is not computed first."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import convenience

from graph_passes.base import PassResult
from graph_passes.rows.demand import Demand
from graph_passes.rows.gathers import Gathers, taken, whole
from graph_passes.rows.picks import Plan, Rows

OLDEST = 13  # the opset since which Softmax runs along one axis


def run(model: ir.Model) -> PassResult:
    """Move row selections upstream, through every operator that treats rows one by one.

    Where all that is read of a node's output are rows (Slice, Gather, GatherElements over an expanded index,
    GatherND), one copy of the node for each selection computes these rows alone, from rows of its inputs; then the
    nodes upstream are read by rows in turn. A selection stops where someone reads all rows, and becomes a Slice, a
    Gather or, with row numbers of its own for every batch, a GatherND over leading batch axes.

    `rewrites` is the number of nodes that work on fewer rows than before. Operators without a rule stop a selection
    silently; a rule that refuses is reported.
    """
    if model.graph.opset_imports.get("", 0) < OLDEST:
        return PassResult(0, (f"opset before {OLDEST}: operators run along other axes",))
    moved = 0
    while (demand := Demand(model.graph)).moves:  # again for selections along another axis of the same values
        moved += len(demand.moves)
        _Rewrite(model.graph, demand).all()
    return PassResult(moved, tuple(demand.refusals))


class _Rewrite:
    """Builds what was found: first the copies, then the gathers they read, then removes what no one reads."""

    def __init__(self, graph: ir.Graph, demand: Demand) -> None:
        self.graph, self.demand, self.emit = graph, demand, Gathers(graph)
        self.standing: dict[tuple[ir.Value, Rows], ir.Value] = {}
        self.gone: list[ir.Node] = []

    def all(self) -> None:
        """Do everything."""
        for node, plans in self.demand.moves.items():
            for rows, plan in plans.items():
                self.replace(node, rows, plan)
            self.gone.append(node)
        for (value, rows), stand in self.standing.items():
            if value.producer() not in self.demand.moves:
                self.settle(value, rows, stand)
        self.remove()
        self.graph.sort()

    def rows_of(self, value: ir.Value, rows: Rows) -> ir.Value:
        """What stands for these rows, made by whom it may."""
        if whole(value, rows):
            return value
        key = (value, rows)
        if key not in self.standing:
            self.standing[key] = self.emit.value(value, taken(value, rows))
        return self.standing[key]

    def replace(self, node: ir.Node, rows: Rows, plan: Plan) -> None:
        """Compute one selection of the node's output and give it to those who take it."""
        out = node.outputs[0]
        new = self.rows_of(out, rows)
        if plan.same is None:
            self.copy(node, plan, new)
        else:
            at, there = plan.same
            other = self.rows_of(_input(node, at), there)
            self.substitute(new, other)
            new = other
        for taker, found in self.demand.takers[out][rows]:
            given = new
            if found.dropped:
                less = self.emit.value(taker.outputs[0], list(taker.outputs[0].shape or ()))
                given = self.emit.node("Squeeze", [new, self.emit.constant([rows.axis])], less)
            self.substitute(taker.outputs[0], given)
            self.gone.append(taker)

    def copy(self, node: ir.Node, plan: Plan, out: ir.Value) -> None:
        """The node over rows of its inputs."""
        inputs = list(node.inputs)
        for at, rows in plan.needs.items():
            inputs[at] = self.rows_of(_input(node, at), rows)
        for at, numbers in plan.constants.items():
            inputs[at] = self.emit.constant(numbers)
        inputs = [value for at, value in enumerate(inputs) if at not in plan.left_out]
        attributes = [each for name, each in node.attributes.items() if name not in plan.without]
        name = self.emit.fresh(node.name)
        made = ir.Node("", node.op_type, inputs, attributes, outputs=[out], version=node.version, name=name)
        made.metadata_props.update(node.metadata_props)
        self.graph.append(made)

    def settle(self, value: ir.Value, rows: Rows, stand: ir.Value) -> None:
        """A selection ends here: a node that takes these rows already, or a new gather."""
        takers = self.demand.takers.get(value, {}).get(rows, [])
        twin = next((taker.outputs[0] for taker, found in takers if not found.dropped), None)
        if twin is None:
            self.emit.gather(value, rows, stand)
        else:
            self.substitute(stand, twin)

    def substitute(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` stand for `old`, under its name if it is an output of the graph."""
        if old.is_graph_output():
            if new.is_graph_output() or new not in self.emit.made:
                new = self.emit.node("Identity", [new], self.emit.value(old, list(old.shape or ())))
            name, old.name = old.name, self.emit.fresh(old.name)
            new.name, new.shape = name, old.shape
        convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

    def remove(self) -> None:
        """Remove what was replaced, and what no one reads without it."""
        while self.gone:
            node = self.gone.pop()
            if node.graph is None or any(_read(out) for out in node.outputs):
                continue
            inputs = [value for value in node.inputs if value is not None]
            self.graph.remove(node, safe=True)
            self.gone += [maker for value in inputs if (maker := value.producer()) is not None]
            for value in inputs:
                if value.is_initializer() and not _read(value):
                    self.graph.initializers.pop(value.name, None)  # type: ignore[arg-type]


def _read(value: ir.Value) -> bool:
    return value.is_graph_output() or len(value.uses()) > 0


def _input(node: ir.Node, at: int) -> ir.Value:
    value = node.inputs[at]
    assert value is not None
    return value
