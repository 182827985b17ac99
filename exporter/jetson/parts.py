"""The parts of a bundle in the form that a board's TensorRT reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from engines.bundle import hash_file
from engines.errors import UserError
from engines.profiles import Limits, profiles
from engines.registry import Dtype
from engines.settings import PLAIN, Settings
from engines.trt import rules
from engines.trt.jetson.boards import JetPack
from engines.trt.jetson.commands import Part
from engines.trt.versions import form
from exporter.graph_choice import GRAPHS, has_loops, published, with_functions
from exporter.orders import Bits
from graph_passes.legalise import LEGAL


@dataclass(frozen=True)
class Wish:
    """What is to be built on the board.

    Attributes:
        jetpack: its release.
        board: its name; None: any that the release is for.
        dtype: precision; None: fp16, or bf16 where the bundle has no other of 16 bits.
        weights: bits of the weights, where they are to be fewer.
        settings: what trtexec is told.
        max_batch: largest batch; None: the bundle's.
        max_length: most slots of a cache; None: the bundle's.
    """

    jetpack: str = "6.2"
    board: str | None = None
    dtype: Dtype | None = None
    weights: Bits | None = None
    settings: Settings = PLAIN
    max_batch: int | None = None
    max_length: int | None = None


@dataclass
class Yard:
    """The parts on their way into a directory."""

    root: Path
    contract: Mapping[str, Any]
    jetpack: JetPack
    sm: int
    wish: Wish
    parts: list[Part] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)  # bytes by part
    files: dict[str, str] = field(default_factory=dict)  # sha256 by name, of all that is built from
    refused: list[str] = field(default_factory=list)

    def add(self, name: str, dtype: Dtype, limits: Limits, out: Path) -> None:
        """One part's graph, in the form that this TensorRT reads; a refusal is noted instead."""
        graph = _graph(self.root, self.contract, name, dtype, self.wish)
        model = ir.load(self.root / graph)
        loops = has_loops(model)
        done = [LEGAL[each](model) for each in form(self.jetpack.version, dtype, loops=loops)]
        file = f"{GRAPHS}/{Path(graph).name}"
        ir.save(model, out / file)
        reasons = [reason for result in done for reason in result.refusals]
        if reasons := reasons or rules.check(out / file, self.jetpack.version, self.sm):
            self.refused.append(f"{name} in {dtype} cannot be built by {self.jetpack.version.label}: {reasons[0]}")
            return
        if self.wish.settings.plugin and model.functions:
            model.functions.clear()  # the plugin's kernels stand for them, whatever the version
            ir.save(model, out / file)
        ports, shown = self.contract["parts"][name]["inputs"], limits.varying if loops else limits
        self.parts.append(Part(name, file, profiles(name, {p["name"]: p["shape"] for p in ports}, shown)))
        self._weigh(name, model, file, out)

    def _weigh(self, name: str, model: ir.Model, file: str, out: Path) -> None:
        tensors = [value.const_value for value in model.graph.initializers.values()]
        self.weights[name] = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        self.files[file] = hash_file(out / file)
        for tensor in tensors:
            if isinstance(tensor, ir.ExternalTensor):
                shard = f"{GRAPHS}/{tensor.location}"
                self.files[shard] = self.contract["files"][shard]["sha256"]

    @property
    def shards(self) -> dict[str, int]:
        """Bytes of the files of weights that the graphs read."""
        known = self.contract["files"]
        graphs = {part.graph for part in self.parts}
        return {name: known[name]["bytes"] for name in sorted(self.files) if name in known and name not in graphs}


def precision(contract: Mapping[str, Any]) -> Dtype:
    """fp16 where there is a choice: opset 20, which JetPack 6 reads, has no convolution in bf16."""
    files = next(iter(contract["parts"].values()))["files"]
    found: list[Dtype] = [dtype for dtype in ("fp16", "bf16") if dtype in files]
    if not found:
        raise UserError("the bundle has no graphs of 16 bits: export it with --dtype fp16, or choose --dtype fp32")
    return found[0]


def _graph(root: Path, contract: Mapping[str, Any], part: str, dtype: Dtype, wish: Wish) -> str:
    """The file of a part's graph: the published one, the one for plugins, or the one over smaller weights."""
    if wish.settings.plugin:
        return with_functions(root, contract["parts"], part, dtype)
    if not wish.weights:
        return published(contract["parts"], part, dtype)
    for entry in contract["engines"].values():
        if (entry["weights"], entry["dtype"]) == (wish.weights, dtype):
            return str(entry["graphs"][part])
    raise UserError(
        f"the bundle has no graphs over {wish.weights} weights in {dtype}: "
        f"make them with tp-export build {root} --target trt-rtx --weights {wish.weights}"
    )
