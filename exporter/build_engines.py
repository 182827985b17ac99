"""Engines of one bundle, each built once in a child process and kept by what it was made from."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from engines.bundle import hash_file
from engines.profiles import Limits, profiles
from engines.registry import BuildJob, Engine, engine
from engines.settings import Settings
from exporter import cache
from exporter.graph_choice import Graph, legal, published, with_functions
from exporter.orders import Entry, Order, Work, note, told
from exporter.progress import Reporter, Step
from exporter.publish import Records, place, record
from plugins.library import NAME as LIBRARY

LAYERS = ".layers.json"


@dataclass(frozen=True)
class Yard:
    """Where engines are built.

    Attributes:
        root: the bundle, published or not; what is read lies there.
        contract: what its bundle.json says, or will.
        limits: the most that engines take.
        records: of files whose hash is known; those of new engines are added.
        out: where new engines go, in `engines/LABEL`.
        store: where they are kept and found again; None: in the cache.
        light: nothing of them will be run.
    """

    root: Path
    contract: Mapping[str, Any]
    limits: Limits
    records: Records
    out: Path
    store: Path | None = None
    light: bool = False
    hashes: dict[str, str] = field(default_factory=dict)  # of files that had none

    def survey(self, order: Order, step: Step | None = None) -> list[Work]:
        """What there is to do for an order; new graphs are written, under names that no bundle.json knows yet.

        Weights in fewer bits are written, too, which may take minutes: `step` hears how far that is.

        Raises:
            UserError: the bundle has no such graphs, or one cannot be brought into the target's form.
        """
        return [self._work(order, part, step or Step()) for part in self.contract["parts"]]

    def build(self, order: Order, works: Sequence[Work], report: Reporter) -> Entry:
        """Every part of an order, into `out`; returns the bundle's entry for it.

        Raises:
            UserError: the builder refused or died; the line names part, profile and log.
        """
        entry = order.entry(engine(order.target.name).version(), self.limits)
        for work in works:
            with report.step(f"build {work.part} for {order.label}") as step:
                found, reused = self._engine(order, work, step)
                step.note = "unchanged, reused" if reused else f"{found['bytes'] / 1e6:.1f} MB"
            note(entry, work, found)
        if order.settings.plugin:
            entry["plugin"] = self._library(order, Path(order.settings.plugin))
        return entry

    def _work(self, order: Order, part: str, step: Step) -> Work:
        graph, backend = self._graph(order, part, step), engine(order.target.name)
        limits = self.limits.varying if graph.loops else self.limits
        ports = self.contract["parts"][part]["inputs"]
        shapes = profiles(part, {port["name"]: port["shape"] for port in ports}, limits)
        key = {
            "source": _source(backend),
            "graph": hash_file(graph.path),
            "weights": {name: self._sha256(name) for name in graph.weights},
            "target": [order.target.name, *order.target.options],
            "settings": self._said(order.settings),
            "profiles": shapes,
            "light": self.light and backend.extension == ".onnx",
            "builder": backend.version(),
        }
        key |= {"refit": order.refit.sha256(part)} if order.refit else {}
        return Work(part, graph, shapes, limits.batch, key)

    def _graph(self, order: Order, part: str, step: Step) -> Graph:
        """The published graph, or one with smaller weights or with functions, in the form that the target reads."""
        parts = self.contract["parts"]
        if order.weights:
            from exporter.weight_only import quantised

            def tell(read: int, total: int) -> None:
                step.tell(total, 0, read)

            made = quantised(self.root, self.contract, part, order.dtype, order.weights, tell)
            name = made.relative_to(self.root).as_posix()
        elif order.settings.plugin:
            name = with_functions(self.root, parts, part, order.dtype)
        else:
            name = published(parts, part, order.dtype)
        return Graph.of(self.root, *legal(self.root, name, order.target, order.dtype, order.label))

    def _engine(self, order: Order, work: Work, step: Step) -> tuple[dict[str, Any], bool]:
        """What is known of one part's engine, and whether it was there already."""
        backend = engine(order.target.name)
        build = order.refit.build if order.refit else backend.build
        file, layers = f"{work.part}{backend.extension}", f"{work.part}{LAYERS}"

        def make(folder: Path) -> None:
            log = cache.base() / "logs" / f"{order.label}-{work.part}.{os.getpid()}.log"
            job = BuildJob(work.part, work.graph.path, folder / file, log, work.shapes, order.target.options)
            job = replace(job, light=self.light, settings=order.settings, tell=step.progress)
            (folder / "engine.json").write_text(json.dumps(told(build(job), work.batch)))
            if log.is_file():  # one that failed keeps its own
                log.replace(log.with_name(f"{order.label}-{work.part}.log"))

        folder, reused = cache.cached("engine", work.key, make, self.store)
        found = json.loads((folder / "engine.json").read_text())
        found["files"] = self._taken(folder, file, order) or work.graph.name
        return {**found, "layers": self._taken(folder, layers, order)}, reused

    def _taken(self, folder: Path, name: str, order: Order) -> str | None:
        """Puts a file of the store into the bundle; None where the store has no such file."""
        if not (folder / name).is_file():
            return None
        self._put(folder / name, named := f"{order.folder}/{name}", cache.sha256_of(folder, name))
        return named

    def _library(self, order: Order, library: Path) -> dict[str, str]:
        """The plugin's library, beside the plans that need it."""
        self._put(library, named := f"{order.folder}/{LIBRARY}", self._sha256(library))
        return {"file": named, "sha256": self._sha256(library)}

    def _put(self, source: Path, named: str, sha256: str) -> None:
        kept = self.out / named
        kept.parent.mkdir(parents=True, exist_ok=True)
        place(source, kept)
        self.records[named] = record(kept, sha256)

    def _said(self, settings: Settings) -> dict[str, Any]:
        """Settings as a key: the plugin by its content."""
        return settings.chosen() | ({"plugin": self._sha256(Path(settings.plugin))} if settings.plugin else {})

    def _sha256(self, file: str | Path) -> str:
        """Of a file of the bundle, by its name there, or of any other."""
        if str(file) in self.records:
            return str(self.records[str(file)]["sha256"])
        return self.hashes.setdefault(str(file), hash_file(self.root / file))


def _source(backend: Engine) -> list[str]:
    """Our own code that an engine depends on."""
    own = hash_file(Path(inspect.getfile(cast("ModuleType", backend))))
    return [own, *([cache.source_hash("engines/trt")] if backend.extension == ".plan" else [])]
