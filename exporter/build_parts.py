"""All parts of one export in one precision, each traced once and kept by content hash."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx_ir as ir

from engines.errors import UserError
from exporter.attention import register
from exporter.cache import cached, source_hash
from exporter.caches import Group
from exporter.draft import Draft, Planned
from exporter.halves import twins
from exporter.legal import legal, legal_ports
from exporter.parts.base import Job, Part, Port
from exporter.parts.decode import DecodePart
from exporter.parts.embed import EmbedPart
from exporter.parts.evict import EvictPart
from exporter.parts.prefill import PrefillPart
from exporter.parts.static import StaticDecodePart, capacity
from exporter.parts.text import TextPart
from exporter.parts.vision import VisionPart
from exporter.progress import Reporter
from exporter.prompting import Prompting
from exporter.trace import fake_model, save, trace, uncollected
from exporter.weights import attach, match
from graph_passes import functions, static
from graph_passes.base import Pass
from graph_passes.pipeline import LOWERED, MARKED, SHARED, Report, optimise

USUAL_TEXT = 40  # tokens of a question
VERSIONS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Built:
    """One traced part: its file in the cache and what a runtime must know of it."""

    name: str
    file: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: Mapping[str, int]
    passes: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    plugin: Path | None = None  # the same with selections as functions, where it was asked for and selects

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
        made = [self._vision(each, report) for each in draft.planned if draft.reads_pictures]
        made.append(self._built("embed", {}, EmbedPart, report))
        if draft.clip is not None:
            made.append(self._built("text", {}, TextPart, report))
        if draft.split:
            made += self._split(made[0], report)
        else:
            whole = (Group(0, draft.facts.layers, draft.tokens),)
            made.append(self._built("decoder", {}, lambda job: DecodePart(job, whole), report))
        return {part.name: part for part in made}

    def _vision(self, planned: Planned, report: Reporter) -> Built:
        key = {"form": asdict(planned.form)}
        if planned.stages:
            key |= self._method(planned)
        return self._built(planned.form.part, key, VisionPart, report, planned)

    def _method(self, planned: Planned | Prompting) -> dict[str, Any]:
        reducer = self.draft.reducer
        source = inspect.getsource(type(reducer))
        about = [repr(reducer), source, self.draft.router]
        return {"reducer": about, "stages": [asdict(stage) for stage in planned.stages]}

    def _split(self, vision: Built, report: Reporter) -> list[Built]:
        """The prefill parts and what decodes behind any of them."""
        draft = self.draft
        carried = tuple(vision.facts.get("carried", ()))
        key = {"images": draft.images, "carried": carried, "states": [asdict(spec) for spec in draft.states]}
        key |= {"steps": [asdict(stage) for stage in draft.steps]}
        made = [self._prefill(each, key, carried, report) for each in draft.prompts]
        facts = made[-1].facts
        groups = tuple(Group(**group) for group in facts["groups"])
        for each in made:
            check_groups(each, groups, {stage.layer for stage in draft.steps if stage.at == "kv"})

        slots = self._capacity(made)

        def decode(job: Job) -> Part:
            if slots:
                return StaticDecodePart(job, groups, slots, biased=bool(facts["biased"]))
            return DecodePart(job, groups, split=True, biased=bool(facts["biased"]))

        more = {**key, **self._method(draft.prompts[-1]), "groups": facts["groups"], "biased": facts["biased"]}
        made.append(self._built("decode", {**more, "capacity": slots}, decode, report, draft.prompts[-1]))
        if draft.turns:
            asked = Prompting("evict", draft.prompts[-1].tokens, draft.turns)
            told = {**more, **self._method(asked)}
            made.append(self._built("evict", told, lambda job: EvictPart(job, groups), report, asked))
        return made

    def _capacity(self, made: Sequence[Built]) -> tuple[int, ...]:
        """Slots of static caches by group; none where they grow."""
        draft = self.draft
        if draft.recipe.kv != "static":
            return ()
        found = [tuple(Group(**group) for group in each.facts["groups"]) for each in made]
        reads = zip(draft.prompts, found, strict=True)
        return capacity(
            ((each.tokens, 1 if each.whole else draft.images, groups) for each, groups in reads), draft.length
        )

    def _prefill(self, asked: Prompting, key: Mapping[str, Any], carried: tuple[str, ...], report: Reporter) -> Built:
        def make(job: Job) -> Part:
            return PrefillPart(job, asked.tokens, () if asked.whole else carried, name=asked.part, whole=asked.whole)

        about = {**key, **self._method(asked), "tokens": asked.tokens, "whole": asked.whole}
        return self._built(asked.part, about, make, report, asked)

    def _built(
        self,
        name: str,
        key: Mapping[str, Any],
        make: Callable[[Job], Part],
        report: Reporter,
        planned: Planned | Prompting | None = None,
    ) -> Built:
        versions = {package: version(package) for package in VERSIONS}
        with report.step(f"trace {name} in {self.dtype}") as step:
            about = {"source": source_hash(), "checkpoint": self.draft.checkpoint.fingerprint(), "dtype": self.dtype}
            form = [self.draft.recipe.opset, self.draft.recipe.indices, self.draft.recipe.plugin]
            full = {"part": name, "legal": form, **about, **versions, **key}
            folder, reused = cached("part", full, lambda place: self._make(make, place, planned or self.draft.main))
            step.note = "unchanged, reused" if reused else ""
        told = json.loads((folder / "part.json").read_text())
        more = {key: told[key] for key in ("nodes", "passes", "facts")}
        plugin = folder / "plugin.onnx"
        more["plugin"] = plugin if plugin.is_file() else None
        return Built(name, folder / "part.onnx", _ports(told["inputs"]), _ports(told["outputs"]), **more)

    @uncollected()
    def _make(self, make: Callable[[Job], Part], place: Path, planned: Planned | Prompting) -> None:
        family, mode, parameters = self._set_up()
        draft, form = self.draft, getattr(planned, "form", self.draft.main.form)
        images = 1 if draft.reducer.prompt else draft.images
        part = make(Job(family.of(form), draft.reducer, planned.stages, images, draft.steps, draft.states))
        try:
            model = trace(part, self.dtype, mode)
        except (RuntimeError, ValueError, TypeError) as error:  # what torch.export and the exporter raise
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"part '{part.name}' in {self.dtype} cannot be traced: {reason}") from error
        attach(model, parameters, self.shards)
        part.found.facts["traced_nodes"] = len(model.graph)
        reports = optimise(model, usual_sizes(part.name, draft), SHARED)
        twin = functions.twin(model) if draft.recipe.plugin else None
        reports += self._finish(model, part, LOWERED, place / "part.onnx")
        if twin is not None:
            self._finish(twin, part, MARKED, place / "plugin.onnx")
        sides = {"inputs": part.inputs, "outputs": part.found.outputs}
        told: dict[str, Any] = {s: [asdict(p) for p in legal_ports(sides[s], draft.recipe)] for s in sides}
        told |= {"nodes": _count(model), "passes": [asdict(each) for each in reports], "facts": part.found.facts}
        (place / "part.json").write_text(json.dumps(told))

    def _finish(self, model: ir.Model, part: Part, passes: Mapping[str, Pass], path: Path) -> list[Report]:
        """Selections lowered or left, sizes folded, the form that was asked for; then the file."""
        sizes = usual_sizes(part.name, self.draft)
        reports = optimise(model, sizes, passes)
        _check_static(model)
        reports += legal(model, self.draft.recipe, sizes, part.inputs)
        functions.run(model)
        save(model, path)
        return reports

    def _set_up(self) -> Any:
        if self._model is None:
            family, mode = fake_model(self.draft.family, self.draft.config, self.dtype, register())
            parameters, twin = match(family, self.draft.checkpoint), twins(self.draft.checkpoint)
            if self.dtype == "fp16":
                parameters = {name: twin.get(tensor, tensor) for name, tensor in parameters.items()}
            self._model = (family, mode, parameters)
        return self._model


def _check_static(model: ir.Model) -> None:
    try:
        static.check(model)
    except ValueError as error:
        raise UserError(f"{error}; report the method and the model, or use another") from error


def _ports(told: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    return tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in told)


def usual_sizes(part: str, draft: Draft) -> dict[str, int]:
    """Dynamic axes at their usual sizes, for costs: one prompt, or one token of its answer."""
    prompt = draft.images * draft.tokens + USUAL_TEXT
    step = {"tokens": 1, "past": prompt} if part == "decode" else {"tokens": prompt}
    return {"words": USUAL_TEXT, **step}


def check_groups(made: Built, groups: tuple[Group, ...], cut: set[int]) -> None:
    """Every prefill part leaves the caches that the one decode part takes.

    Raises:
        UserError: their layers fall into other groups, or caches of constant length differ.
    """
    for mine, wanted in zip_longest((Group(**group) for group in made.facts["groups"]), groups):
        apart = mine is None or wanted is None or mine.layers != wanted.layers
        if apart or (wanted.first in cut and mine.fixed != wanted.fixed):
            raise UserError(
                f"part {made.name} leaves other caches than the others do: give --keep as a count, or one of --buckets"
            )


def _count(model: ir.Model) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
