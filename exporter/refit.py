"""The plans of another bundle with this bundle's weights: for a fine-tuned checkpoint, no second build."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from engines.bundle import Bundle, open_bundle
from engines.child import run_in_child
from engines.errors import UserError
from engines.registry import BuildJob, BuildResult
from engines.settings import Settings
from engines.targets import engine_entry
from exporter.publish import place

TARGET = "trt"
MODULE = "tensorrt"
DETAILS = ("fused_attention", "fusion")


@dataclass(frozen=True)
class Refit:
    """Refittable engines of another bundle; `label` is what they are called there."""

    bundle: Bundle
    label: str

    @classmethod
    def of(cls, path: Path, label: str) -> Refit:
        """Opens the other bundle.

        Raises:
            UserError: it is damaged, or its engines of that name are missing or not refittable.
        """
        bundle = open_bundle(path)
        found = cls(bundle, label)
        if label not in bundle.contract["engines"] or not found.settings.refittable:
            said = f"tp-export build {path} --target {TARGET} --refittable"
            raise UserError(f"--refit-from {path}: it has no refittable engines {label}; build them with {said}")
        return found

    @property
    def entry(self) -> Mapping[str, Any]:
        """What the other bundle says of them."""
        return engine_entry(self.bundle.contract, self.label)

    @property
    def settings(self) -> Settings:
        """What they were built with, which the new ones share."""
        return Settings(**self.entry["settings"])

    def sha256(self, part: str) -> str:
        """Of the plan that is refitted."""
        return str(self.bundle.contract["files"][self.entry["files"][part]]["sha256"])

    def build(self, job: BuildJob) -> BuildResult:
        """What a builder does: a plan with the weights of the job's graph; the rest is as in the other bundle.

        Raises:
            UserError: the graphs differ in more than their weights, or the plan cannot be refitted here.
        """
        start, graph = time.perf_counter(), self.bundle.dir / self.entry["graphs"][job.part]
        if _structure(graph) != _structure(job.onnx):
            raise UserError(
                f"--refit-from {self.bundle.dir}: part '{job.part}' is another graph there, not only other weights: "
                "export both with the same recipe, or build without --refit-from"
            )
        plan = self.bundle.dir / self.entry["files"][job.part]
        kwargs = {"module": MODULE, "plan": str(plan), "onnx": str(job.onnx), "out": str(job.out)}
        found = run_in_child("engines.trt.refit:refit_plan", kwargs, f"refitting '{job.part}' from {plan}", job.log)
        if layers := self.entry["layers"].get(job.part):
            place(self.bundle.dir / layers, job.out.with_suffix(".layers.json"))
        details = {key: self.entry[key][job.part] for key in DETAILS if job.part in self.entry[key]}
        details |= {key: self.entry[key] for key in ("builder", "gpu")}
        seconds = time.perf_counter() - start
        return BuildResult(job.out, seconds, job.out.stat().st_size, found["peak_mib"], details)


def _structure(graph: Path) -> str:
    """sha256 of a graph without where its weights lie, in hex."""
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        del tensor.external_data[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
