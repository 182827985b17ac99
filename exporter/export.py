"""One export from recipe to published bundle: every arrow of the way is one call here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.errors import UserError
from engines.glance import only_vision
from engines.graph_engine import RUNNABLE
from engines.measure import Pair
from engines.parity import Case, Run
from engines.parity import told as tell
from engines.profiles import Limits
from engines.prompt import Prompt
from engines.registry import Runner, engine
from engines.session import Session
from exporter import outcome
from exporter.ahead import ahead
from exporter.build_engines import Yard
from exporter.build_parts import Built, Tracer
from exporter.clip_aux import TOKENIZER as CLIP_TOKENIZER
from exporter.contract import contract
from exporter.draft import Draft
from exporter.furnish import furnish
from exporter.halves import needs_twins, write_twins
from exporter.memory import check_memory
from exporter.orders import Order
from exporter.pictures import pictures
from exporter.progress import Reporter
from exporter.prove import prove, write_cases
from exporter.publish import Records, check_target, place, seal, staging
from exporter.recipe import Recipe
from exporter.text_cases import write_text_cases
from graph_passes.legalise import TRACED

ORT = "ort-cpu"
QUESTIONS = 2  # of each picture, in parity


@dataclass(frozen=True)
class Outcome:
    """A published bundle: where it is, what it says, how it compares."""

    path: Path
    contract: Mapping[str, Any]
    parity: Mapping[str, Any]


def export(recipe: Recipe, out: Path, console: Console, *, force: bool = False, accept: bool = False) -> Outcome:
    """Export a checkpoint with a method into a bundle at `out`.

    Args:
        recipe: what to export.
        out: the bundle's directory; appears complete or not at all.
        console: gets the progress.
        force: replace a bundle that is there.
        accept: publish even if parity fails.

    Raises:
        UserError: a mistake in the recipe, a bad checkpoint, a builder that refused, or parity below its bounds.
    """
    check_target(out, force=force)
    draft = Draft.of(recipe)
    parts = len(draft.planned) + 2 + len(draft.prompts) + bool(draft.turns) + (draft.clip is not None)
    runnable = sum(dtype in RUNNABLE for dtype in draft.precisions) + len(beside(draft))
    check_memory(draft, runnable)
    compared = {"full": runnable + 1, "vision": runnable, "none": 0}[recipe.parity]
    steps = 2 + parts * (len(draft.precisions) + len(draft.targets)) + compared + needs_twins(draft)
    with staging(out, force=force) as root, Reporter(console, steps) as report:
        return _Run(draft, root, report).outcome(out, accept=accept)


def beside(draft: Draft) -> list[str]:
    """Targets beside ONNX Runtime whose engines run on this machine."""
    return [t.name for t in draft.targets if t.name != ORT and engine(t.name).extension == ".onnx"]


@dataclass(frozen=True)
class _Proven:
    """What came of the comparison: parity.json, and what people are shown of it."""

    parity: Mapping[str, Any]
    cases: list[Case] = field(default_factory=list)
    sessions: Mapping[str, Session] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class _Run:
    """One export on its way; `root` is the directory that will be published."""

    draft: Draft
    root: Path
    report: Reporter

    def outcome(self, out: Path, *, accept: bool) -> Outcome:
        """Everything between an empty directory and a sealed one."""
        draft, root = self.draft, self.root
        copies = draft.recipe.weights == "copy"
        with self.report.step("copy weights and tokenizer" if copies else "link weights, copy tokenizer") as step:
            if draft.clip:
                (root / CLIP_TOKENIZER).parent.mkdir()
                place(draft.clip / "tokenizer.json", root / CLIP_TOKENIZER)
            records = furnish(draft.checkpoint, root, draft.recipe.weights, step)
        if needs_twins(draft):
            with self.report.step("convert bf16 weights to fp16"):
                records |= write_twins(draft.checkpoint, root / "onnx")
        first, *more = draft.precisions
        with ahead(draft, root / "onnx"):
            parts: dict[str, dict[str, Built]] = {first: self.trace(draft, first)}
        parts |= {dtype: self.trace(draft, dtype) for dtype in more}
        told = contract(draft, parts)
        told["engines"] = self._engines(told, records)
        proven = self._proven(told, accept=accept)
        told["parity"] = {"verdict": proven.parity["verdict"]}
        with self.report.step("write preview and report"):
            png = None
            if proven.runs and draft.reads_pictures and (draft.recipe.parity == "full" or not draft.split):
                png = outcome.picture(draft, proven.sessions["fp32"], proven.cases, proven.runs["fp32"], root)
            parity = outcome.write_parity(proven.parity, proven.pairs, root)
            outcome.write_report(told, parity, png, root)
            told = seal(root, told, records)
        return Outcome(out, told, parity)

    def _proven(self, told: Mapping[str, Any], *, accept: bool) -> _Proven:
        """As much as --parity says compared with PyTorch; the dense model only beside a whole one."""
        draft = self.draft
        if draft.recipe.parity == "none":
            return _Proven(tell({}, mode="none"))
        cases = self._cases()
        sessions = {str(dtype): self._session(told, dtype, "") for dtype in draft.precisions if dtype in RUNNABLE}
        sessions |= {f"fp32 {name}": self._session(told, "fp32", "", name) for name in beside(draft)}
        parity, runs = prove(draft, sessions, cases, self.root / "parity", self.report, accept=accept)
        pairs = self._speed(sessions["fp32"], cases[0]) if draft.recipe.parity == "full" else []
        return _Proven(parity, cases, sessions, runs, pairs)

    def trace(self, draft: Draft, dtype: str, mark: str = "") -> dict[str, Built]:
        """All parts in one precision, their graphs beside the shards."""
        built = Tracer(draft, dtype, self.root / "onnx").all(self.report)
        for name, part in built.items():
            place(part.file, self.root / "onnx" / f"{mark}{name}.{dtype}.onnx")
            if part.plugin is not None:
                place(part.plugin, self.root / "onnx" / f"{name}.{dtype}.plugin.onnx")
        return built

    def _engines(self, told: Mapping[str, Any], records: Records) -> dict[str, Any]:
        draft, limits = self.draft, Limits.of(told["limits"])
        yard = Yard(self.root, told, limits, records, self.root, light=draft.recipe.parity != "full")
        made = {}
        for target in draft.targets:
            order = Order(target, draft.precision(target))
            works = yard.survey(order)
            made[order.label] = yard.build(order, works, self.report)
            for work in works:
                work.graph.settle(self.root)
        return made

    def _cases(self) -> list[Case]:
        draft = self.draft
        if not draft.reads_pictures:
            buckets = [each.tokens for each in draft.prompts if each.whole]
            return write_text_cases(self._prompt(), buckets, self.root / "parity")
        drawn = pictures("demo" if draft.recipe.model == "demo" else "general")
        frames = draft.main.form.views if "frame_scores" in draft.reducer.needs else 0
        return write_cases(drawn, QUESTIONS, self._prompt(), draft.main.form.kind, self.root / "parity", frames)

    def _prompt(self) -> Prompt:
        facts = self.draft.facts
        return Prompt(self.root, facts.image_token_id, video_token_id=facts.video_token_id)

    def _session(self, told: Mapping[str, Any], dtype: str, mark: str, target: str = ORT) -> Session:
        """The unpublished graphs, in a runtime of this machine."""

        def load(name: str) -> Runner:
            return engine(target).load(self.root / "onnx" / f"{mark}{name}.{dtype}.onnx")

        whole, names = self.draft.recipe.parity == "full", told["parts"]
        parts = {name: load(name) for name in names} if whole else only_vision(names, load)
        return Session(told, parts, self._prompt(), dtype)

    def _dense(self) -> tuple[Draft | None, str]:
        """The same export without pruning, or why there is none to compare with."""
        reason = outcome.too_large(self.draft) if self.draft.prunes else "nothing is pruned"
        if reason:
            return None, reason
        try:
            recipe = replace(
                self.draft.recipe,
                method="none",
                keep=None,
                params={},
                aux={},
                max_length=None,
                buckets=(),
                kv="growing",
                plugin=False,
                opset=min(self.draft.recipe.opset, TRACED),
            )
            return Draft.of(recipe), ""
        except UserError as error:  # all of a picture may be more than the model takes
            return None, str(error)

    def _speed(self, pruned: Session, case: Case) -> list[Pair]:
        """Time the dense model beside the pruned one, where it fits; its graphs do not stay."""
        dense, reason = self._dense()
        if dense is None:
            with self.report.step("compare speed with the dense model") as step:
                step.note = f"left out: {reason}"
            return []
        quiet = Reporter(Console(quiet=True), 0)
        parts = {"fp32": _Run(dense, self.root, quiet).trace(dense, "fp32", "dense.")}
        with self.report.step("compare speed with the dense model") as step:
            session = self._session(contract(dense, parts), "fp32", "dense.")
            pairs = outcome.time_both(session, pruned, self.root / "parity", case)
            step.note = f"first token x{pairs[-1].ratio:.2f}"
        for path in (self.root / "onnx").glob("dense.*.onnx"):
            path.unlink()
        return pairs
