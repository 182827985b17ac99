"""Which graph of a part an engine is built from, and the weights that it reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from engines.errors import UserError
from engines.registry import Dtype, Target, rewrites
from exporter.disk import sync
from graph_passes.legalise import LEGAL

PENDING = ".pending-"  # begins the names of graphs that no published bundle.json knows yet
GRAPHS = "onnx"


@dataclass(frozen=True)
class Graph:
    """A graph beside its weights.

    Attributes:
        path: where it lies now.
        name: what bundle.json will call it.
        weights: the files that it reads, as bundle.json calls them.
        loops: whether it has a loop outside of all functions.
    """

    path: Path
    name: str
    weights: tuple[str, ...]
    loops: bool

    @classmethod
    def of(cls, root: Path, path: Path, name: str) -> Graph:
        """Reads it, but not its weights."""
        model = ir.load(path)
        tensors = (value.const_value for value in model.graph.initializers.values())
        stored = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
        weights = tuple(sorted((path.parent / each).relative_to(root).as_posix() for each in stored))
        return cls(path, name, weights, has_loops(model))

    def settle(self, root: Path) -> None:
        """Gives a new graph its own name."""
        if self.path != root / self.name:
            sync(self.path)
            self.path.replace(root / self.name)

    def drop(self, root: Path) -> None:
        """Removes a new graph that nobody wants."""
        if self.path != root / self.name:
            self.path.unlink(missing_ok=True)


def published(parts: Mapping[str, Any], part: str, dtype: Dtype) -> str:
    """The file of a part's graph in a precision.

    Raises:
        UserError: the bundle has no such graphs.
    """
    files: Mapping[str, str] = parts[part]["files"]
    if dtype not in files:
        raise UserError(
            f"the bundle has no graphs in {dtype}, only in {' and '.join(files)}: choose one with --dtype, or export "
            f"the model again with --dtype {dtype}"
        )
    return files[dtype]


def with_functions(root: Path, parts: Mapping[str, Any], part: str, dtype: Dtype) -> str:
    """The graph whose selections are functions, for a plugin; parts that select nothing have only the published one.

    Raises:
        UserError: the bundle was exported without any.
    """
    if not any((root / _plugin(name, dtype)).is_file() for name in parts):
        raise UserError(f"the bundle has no graphs in {dtype} for a plugin: export it with --plugin")
    name = _plugin(part, dtype)
    return name if (root / name).is_file() else published(parts, part, dtype)


def has_loops(model: ir.Model) -> bool:
    """Whether a graph has a loop outside of all functions."""
    return any(node.op_type == "Loop" for node in model.graph)


def legal(root: Path, name: str, target: Target, dtype: Dtype, label: str) -> tuple[Path, str]:
    """A graph in the form that a target reads: itself, or a new one beside it, whose name is still to be given.

    Raises:
        UserError: it cannot be brought into that form.
    """
    model = ir.load(root / name)
    wanted = rewrites(target.name, dtype, loops=has_loops(model))
    if not wanted:
        return root / name, name
    done = [LEGAL[each](model) for each in wanted]
    part = Path(name).name.removesuffix(".onnx")
    if refusals := [reason for result in done for reason in result.refusals]:
        raise UserError(f"{part} cannot be built for {target.name}: {refusals[0]}")
    if not any(result.modified for result in done):
        return root / name, name
    path = root / GRAPHS / f"{PENDING}{os.getpid()}.{part}.{label}.onnx"
    ir.save(model, path)
    return path, f"{GRAPHS}/{part}.{label}.onnx"


def _plugin(part: str, dtype: Dtype) -> str:
    return f"{GRAPHS}/{part}.{dtype}.plugin.onnx"
