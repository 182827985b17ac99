"""From a matrix to bundles: every bundle's jobs one after the other, bundles side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.errors import UserError
from exporter.fleet.jobs import Crew, End, Job
from exporter.fleet.matrix import Goal, Matrix, Planned
from exporter.progress import Reporter, Step
from exporter.publish import check_target, is_bundle
from exporter.workbench import claim

LOGS = ".logs"
EXPORT, BUILD = "exporter.fleet.work:export", "exporter.fleet.work:build"
Line = deque[Job]  # of one bundle; no two of them run at once
Ends = dict[Job, End]


def drive(matrix: Matrix, folder: Path, crew: Crew, console: Console, store: Path | None = None) -> Ends:
    """Do every job; one that fails stops nothing but what needs it.

    An interrupt ends all jobs; whole bundles stay, and what was half done goes.

    Returns:
        How each ended, in the matrix's order.

    Raises:
        UserError: a bundle's place is taken by something else, or another run works in this folder.
    """
    lines = [line_of(bundle, folder, store) for bundle in matrix.bundles]
    order = [job for line in lines for job in line]
    places = [folder / bundle.name for bundle in matrix.bundles]
    for place in places:
        check_target(place, force=True)
    with alone(folder), Reporter(console, len(order)) as report:
        try:
            with crew:
                ends = _Drive(crew, report, deque(lines)).all()
        finally:
            for place in places:
                _tidy(place)
    return {job: ends[job] for job in order}


def line_of(bundle: Planned, folder: Path, store: Path | None) -> Line:
    """The export, which leaves the graphs, and then one job for each plan."""

    def job(what: str, function: str, kwargs: Mapping[str, Any], goal: Goal | None = None) -> Job:
        log = folder / LOGS / f"{bundle.name}.{what.replace(':', '-').replace('/', '-')}.log"
        gpu = goal is not None and goal.backend == "trt"
        return Job(bundle.name, what, function, kwargs, log, goal.kind if goal else None, gpu)

    place = str(folder / bundle.name)
    first = job(",".join(bundle.recipe.targets), EXPORT, {"recipe": asdict(bundle.recipe), "out": place})
    told = {"bundle": place, "told": dict(bundle.build), "store": store and str(store)}
    return deque([first, *(job(str(goal), BUILD, {**told, "target": goal.target}, goal) for goal in bundle.goals)])


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a folder against other runs; made if missing.

    Raises:
        UserError: it cannot be written, or another run has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another place with --output") from error
    handle = claim(folder)
    if handle is None:
        raise UserError(f"another tp-export build --matrix works in {folder}: wait for it, or choose another place")
    try:
        yield
    finally:
        os.close(handle)


def _tidy(place: Path) -> None:
    """Removes what a killed job left of a bundle that it made or added to."""
    from exporter.in_place import staging

    with suppress(UserError):
        check_target(place, force=True)
        if is_bundle(place):
            with staging(place):
                pass


@dataclass
class _Drive:
    """Lines that wait, the one job of each that runs, and the ends of all."""

    crew: Crew
    report: Reporter
    waiting: deque[Line]
    running: dict[Job, tuple[Line, Step, ExitStack]] = field(default_factory=dict)
    ends: Ends = field(default_factory=dict)

    def all(self) -> Ends:
        """Until nothing waits or runs."""
        while self.waiting or self.running:
            while self.waiting and self.crew.room:
                self._begin(self.waiting.popleft())
            for job, end in self.crew.ended():
                self._finish(job, end)
        return self.ends

    def _begin(self, line: Line) -> None:
        job, stack = line.popleft(), ExitStack()
        self.running[job] = line, stack.enter_context(self.report.step(str(job))), stack
        self.crew.start(job)

    def _finish(self, job: Job, end: End) -> None:
        line, step, stack = self.running.pop(job)
        self.ends[job] = end
        step.note = f"{end.outcome}{end.where and f' on {end.where}'}{end.why and f': {end.why}'}"
        stack.close()
        if job.function == EXPORT and end.outcome in ("failed", "refused"):
            self.ends |= dict.fromkeys(line, End(end.outcome, "its bundle was not exported"))
        elif line:
            self.waiting.appendleft(line)  # a bundle that is begun comes first
