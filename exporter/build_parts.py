"""All parts of one export in one precision, each traced once and kept by content hash."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from engines.errors import UserError
from exporter.attention import register
from exporter.cache import cached, source_hash
from exporter.draft import Draft, Planned
from exporter.parts.base import Group, Job, Part, Port
from exporter.parts.decode import DecodePart
from exporter.parts.embed import EmbedPart
from exporter.parts.prefill import PrefillPart
from exporter.parts.text import TextPart
from exporter.parts.vision import VisionPart
from exporter.progress import Reporter
from exporter.trace import fake_model, save, trace
from exporter.weights import attach, match
from graph_passes.pipeline import optimise

VERSIONS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Built:
    """One traced part: its file in the cache and what a runtime must know of it."""

    name: str
    file: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: Mapping[str, int]
    facts: Mapping[str, Any]

    @property
    def node_count(self) -> int:
        """Nodes of the published graph."""
        return sum(self.nodes.values())


@dataclass
class Tracer:
    """Traces the parts of one export in one precision; the model is set up only if something is not cached.

    `shards` is the directory where the checkpoint's shards lie as regular files.
    """

    draft: Draft
    dtype: str
    shards: Path

    def __post_init__(self) -> None:
        self._model: Any = None

    def all(self, report: Reporter) -> dict[str, Built]:
        """Every part: vision for each form of picture, embed, and the decoder in one or two."""
        draft = self.draft
        made = [self._vision(each, report) for each in draft.planned]
        made.append(self._built("embed", {}, EmbedPart, report))
        if draft.clip is not None:
            made.append(self._built("text", {}, TextPart, report))
        if draft.cut_decoder:
            key = {**self._method(draft.main), "images": draft.images, "tokens": draft.tokens}
            made += self._cut_decoder(key, made[0], report)
        else:
            whole = (Group(0, draft.facts.layers, draft.tokens),)
            made.append(self._built("decoder", {}, lambda job: DecodePart(job, whole), report))
        return {part.name: part for part in made}

    def _vision(self, planned: Planned, report: Reporter) -> Built:
        key = {"form": asdict(planned.form)}
        if planned.stages:
            key |= self._method(planned)
        return self._built(planned.form.part, key, VisionPart, report, planned)

    def _method(self, planned: Planned) -> dict[str, Any]:
        reducer = self.draft.reducer
        source = inspect.getsource(type(reducer))
        return {"reducer": [repr(reducer), source], "stages": [asdict(stage) for stage in planned.stages]}

    def _cut_decoder(self, key: Mapping[str, Any], vision: Built, report: Reporter) -> list[Built]:
        tokens, carried = self.draft.tokens, tuple(vision.facts["carried"])
        key = {**key, "carried": carried}
        prefill = self._built("prefill", key, lambda job: PrefillPart(job, tokens, carried), report)
        biased = bool(prefill.facts["biased"])
        groups = tuple(Group(**group) for group in prefill.facts["groups"])

        def decode(job: Job) -> Part:
            return DecodePart(job, groups, split=True, biased=biased)

        return [prefill, self._built("decode", dict(prefill.facts), decode, report)]

    def _built(
        self,
        name: str,
        key: Mapping[str, Any],
        make: Callable[[Job], Part],
        report: Reporter,
        planned: Planned | None = None,
    ) -> Built:
        versions = {package: version(package) for package in VERSIONS}
        with report.step(f"trace {name} in {self.dtype}") as step:
            about = {"source": source_hash(), "checkpoint": contents(self.draft), "dtype": self.dtype}
            full = {"part": name, **about, **versions, **key}
            folder, reused = cached("part", full, lambda place: self._make(make, place, planned or self.draft.main))
            step.note = "unchanged, reused" if reused else ""
        told = json.loads((folder / "part.json").read_text())
        ports = {
            side: tuple(Port(**{**p, "shape": tuple(p["shape"])}) for p in told[side]) for side in ("inputs", "outputs")
        }
        return Built(name, folder / "part.onnx", ports["inputs"], ports["outputs"], told["nodes"], told["facts"])

    def _make(self, make: Callable[[Job], Part], place: Path, planned: Planned) -> None:
        family, mode, parameters = self._set_up()
        part = make(Job(family.of(planned.form), self.draft.reducer, planned.stages, self.draft.images))
        try:
            model = trace(part, self.dtype, mode)
        except (RuntimeError, ValueError, TypeError) as error:  # what torch.export and the exporter raise
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"part '{part.name}' in {self.dtype} cannot be traced: {reason}") from error
        attach(model, parameters, self.shards)
        part.found.facts["traced_nodes"] = len(model.graph)
        optimise(model)
        save(model, place / "part.onnx")
        told = {"inputs": [asdict(p) for p in part.inputs], "outputs": [asdict(p) for p in part.found.outputs]}
        (place / "part.json").write_text(json.dumps({**told, "nodes": _count(model), "facts": part.found.facts}))

    def _set_up(self) -> Any:
        if self._model is None:
            family, mode = fake_model(self.draft.family, self.draft.config, self.dtype, register())
            self._model = (family, mode, match(family, self.draft.checkpoint))
        return self._model


def contents(draft: Draft) -> list[str]:
    """Hashes of config and shards: clean-up may merge initialisers of equal content, so headers alone do not do."""
    return [draft.checkpoint.fingerprint(), *draft.hashes]


def _count(model: ir.Model) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
