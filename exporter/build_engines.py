"""Engines of one export, each built once in a child process and kept by content hash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from engines.bundle import hash_file
from engines.errors import UserError
from engines.registry import BuildJob, Dtype, Target, engine, rewrites
from exporter.build_parts import Built
from exporter.cache import base, cached, source_hash
from exporter.profiles import Limits, profiles
from exporter.progress import Reporter
from exporter.publish import place
from graph_passes.legalise import EXPLICIT


@dataclass(frozen=True)
class Yard:
    """Where engines are built: the unpublished bundle, and the hashes of the weights in it."""

    root: Path
    limits: Limits
    weights: tuple[str, ...]
    light: bool = False  # nothing of them will be run

    def build(self, target: Target, dtype: Dtype, parts: Mapping[str, Built], report: Reporter) -> dict[str, Any]:
        """Every part for one target; returns the bundle's entry for it.

        Raises:
            UserError: the builder refused or died; the line names part, profile and log.
        """
        entry: dict[str, Any] = {"dtype": dtype, "options": list(target.options)}
        entry |= {key: {} for key in ("files", "graphs", "build_s", "bytes", "peak_mib", "batch", "fused_attention")}
        for name, part in parts.items():
            with report.step(f"build {name} for {target.name}") as step:
                told, reused = self._engine(target, dtype, name, part)
                step.note = "unchanged, reused" if reused else f"{told['bytes'] / 1e6:.1f} MB"
            for key in entry.keys() & told.keys() - {"dtype", "options"}:
                entry[key][name] = told[key]
            entry["files"][name], entry["graphs"][name] = told["file"], told["graph"]
        return entry

    def _engine(self, target: Target, dtype: Dtype, name: str, part: Built) -> tuple[dict[str, Any], bool]:
        onnx = self._graph(target, dtype, name)
        # TensorRT's compiler crashes on a Loop beside fused attention if the batch varies: one picture at a time there.
        limits = replace(self.limits, batch=1) if part.nodes.get("Loop") else self.limits
        shapes, backend = profiles(name, part.inputs, limits), engine(target.name)
        key = {
            "source": source_hash(),
            "graph": hash_file(onnx),
            "weights": self.weights,
            "target": [target.name, *target.options],
            "profiles": shapes,
            "light": self.light,
            "builder": backend.version(),
        }

        def make(folder: Path) -> None:
            log = base() / "logs" / f"{target.name}-{name}.log"
            job = BuildJob(name, onnx, folder / f"{name}{backend.extension}", log, shapes, target.options, self.light)
            built = backend.build(job)
            told = {
                "build_s": built.seconds,
                "bytes": built.bytes,
                "peak_mib": built.peak_mib,
                "batch": limits.batch,
                **built.details,
            }
            (folder / "engine.json").write_text(json.dumps(told))

        folder, reused = cached("engine", key, make)
        told = json.loads((folder / "engine.json").read_text())
        made = folder / f"{name}{backend.extension}"
        kept = self.root / "engines" / target.name / made.name
        if made.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            place(made, kept)
        told["file"] = (kept if made.is_file() else onnx).relative_to(self.root).as_posix()
        told["graph"] = onnx.relative_to(self.root).as_posix()
        return told, reused

    def _graph(self, target: Target, dtype: Dtype, name: str) -> Path:
        """The published graph, or one beside it where the target reads another form."""
        published = self.root / "onnx" / f"{name}.{dtype}.onnx"
        wanted = rewrites(target.name, dtype)
        if not wanted:
            return published
        model = ir.load(published)
        done = [EXPLICIT[each](model) for each in wanted]
        if refusals := [reason for result in done for reason in result.refusals]:
            raise UserError(f"part '{name}' in {dtype} cannot be built for {target.name}: {refusals[0]}")
        if not any(result.modified for result in done):
            return published
        path = published.with_name(f"{name}.{dtype}.{target.name}.onnx")
        ir.save(model, path)
        return path
