"""Jobs in processes of this machine."""

from __future__ import annotations

import time
from typing import Self

from engines.child import Child
from engines.errors import UserError
from exporter.fleet.jobs import End, Job, reason

MOMENT_S = 0.1


class Local:
    """At most so many at once."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: dict[Child, tuple[Job, float]] = {}
        self._refused: list[tuple[Job, End]] = []

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what runs; builders that it started die with it."""
        for child in self._running:
            child.kill()

    @property
    def room(self) -> bool:
        """Whether one more may run."""
        return len(self._running) < self._jobs

    def start(self, job: Job) -> None:
        """Begin a job, or say that it needs another machine."""
        if job.kind:
            self._refused.append(
                (job, End("refused", f"it wants a machine with {job.kind}: give a cluster with --ray"))
            )
            return
        self._running[Child(job.function, job.kwargs, str(job), job.log)] = job, time.perf_counter()

    def ended(self) -> list[tuple[Job, End]]:
        """What has ended meanwhile."""
        time.sleep(MOMENT_S)
        done = [child for child in self._running if child.done()]
        refused, self._refused = self._refused, []
        return refused + [self._end(child, *self._running.pop(child)) for child in done]

    def _end(self, child: Child, job: Job, start: float) -> tuple[Job, End]:
        seconds = time.perf_counter() - start
        try:
            return job, End.of(child.result(), seconds)
        except UserError as error:
            return job, End("failed", reason(error, str(job)), seconds)
