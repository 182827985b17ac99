"""What is known of tokens behind a cut, and tables of one row a token gathered to those that live on."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from exporter.graft.sizes import constant

Axes = dict[int, int]  # axis of tokens: rows in front of the patches there


class StuckError(Exception):
    """Why a node cannot be followed."""


@dataclass
class Carried:
    """One cut: `old` patches, `new` ones; `axes` of every value behind it; `front` rows at the cut."""

    graph: ir.Graph
    old: int
    new: int
    rows: ir.Value | None
    axes: dict[ir.Value, Axes]
    front: int
    places: dict[int, ir.Value] = field(default_factory=dict)

    def of(self, value: ir.Value | None) -> Axes:
        """The token axes of a value; none for what does not depend on the cut."""
        return {} if value is None else self.axes.get(value, {})

    def before(self, value: ir.Value | None) -> list[object]:
        """The sizes that a value had before the cut."""
        if value is None or value.shape is None:
            raise StuckError(f"the size of {None if value is None else value.name} is not known")
        sizes: list[object] = list(value.shape)
        for axis, front in self.of(value).items():
            sizes[axis] = self.old + front
        return sizes

    def shrunk(self, shape: ir.Shape, axes: Axes) -> ir.Shape:
        """A shape from before the cut as it is behind it."""
        sizes = list(shape)
        for axis, front in axes.items():
            if sizes[axis] != self.old + front:
                raise AssertionError(f"{sizes} has no {self.old + front} rows on axis {axis}")
            sizes[axis] = self.new + front
        return ir.Shape(sizes)

    def table(self, node: ir.Node, place: int, axis: int, front: int, rank: int) -> None:
        """Gather input `place` of a node, `axis` of which holds old rows, to `[B,1,..,rows,tail]` of `rank` axes.

        Raises:
            StuckError: it differs from picture to picture, or rows were merged.
        """
        value = node.inputs[place]
        sizes = self.before(value)
        own = axis - (rank - len(sizes))
        if self.rows is None:
            raise StuckError(f"{_name(value)} has one row a token, and merged tokens have none")
        if front > self.front:
            raise StuckError(f"{_name(value)} has {front} rows in front of the patches, the cut {self.front}")
        tail = sizes[own + 1 :]
        if own < 0 or axis == 0 or any(size != 1 for size in sizes[:own]) or not all(isinstance(s, int) for s in tail):
            raise StuckError(f"{_name(value)} has one row a token and differs from picture to picture")
        name = f"{node.name or node.outputs[0].name}_rows{place}"
        flat = self._reshaped(value, [self.old + front, *tail], f"{name}_flat", node)
        found = ir.node("Gather", [flat, self._places(front, node)], {"axis": 0}, name=name)
        found.outputs[0].name = name
        self.graph.insert_before(node, found)
        full = [-1, *[1] * (axis - 1), self.new + front, *tail]
        node.replace_input_with(place, self._reshaped(found.outputs[0], full, f"{name}_wide", node))

    def _places(self, front: int, node: ir.Node) -> ir.Value:
        """`[B,front+new]`: rows of a table with so many rows in front of the patches."""
        assert self.rows is not None
        skipped = self.front - front
        if not skipped:
            return self.rows
        if front not in self.places:
            name = f"{self.rows.name}_behind{skipped}"
            ends = [constant(self.graph, [n], f"{name}_{w}") for w, n in (("from", skipped), ("to", 2**62), ("on", 1))]
            part = ir.node("Slice", [self.rows, *ends[:2], ends[2]], name=f"{name}_part")
            less = constant(self.graph, [skipped], f"{name}_less")
            moved = ir.node("Sub", [part.outputs[0], less], name=name)
            part.outputs[0].name, moved.outputs[0].name = f"{name}_part", name
            self.graph.insert_before(node, [part, moved])  # the first that reads them
            self.places[front] = moved.outputs[0]
        return self.places[front]

    def _reshaped(self, value: ir.Value | None, sizes: list[object], name: str, node: ir.Node) -> ir.Value:
        shape = constant(self.graph, [int(s) for s in sizes], f"{name}_shape")  # type: ignore[call-overload]
        made = ir.node("Reshape", [value, shape], name=name)
        made.outputs[0].name = name
        self.graph.insert_before(node, made)
        return made.outputs[0]


def _name(value: ir.Value | None) -> str:
    return "an input" if value is None else str(value.name)
