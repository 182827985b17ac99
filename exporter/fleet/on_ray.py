"""Jobs as tasks of a Ray cluster: a kind of GPU is a resource that only some of its nodes have."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from engines.child import run_in_child
from engines.errors import UserError
from exporter.fleet.address import QUIET, first_line, reach
from exporter.fleet.jobs import End, Job, reason

MOMENT_S = 0.5
INSTALL = "pip install 'tp-export[ray]'"
Gpus = Mapping[str, tuple[str, float]]


class OnRay:
    """A cluster, or one that this process starts on this machine (`local`).

    Nodes have tp-export installed and see the same directories under the same names.
    """

    def __init__(self, address: str, jobs: int, gpus: Gpus) -> None:
        if not find_spec("ray"):
            raise UserError(f"--ray {address}: Ray is not installed: {INSTALL}")
        self._address, self._jobs, self._gpus = address, jobs, gpus
        self._running: dict[Any, tuple[Job, float]] = {}
        self._refused: list[tuple[Job, End]] = []

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            UserError: the cluster does not answer.
        """
        import ray

        terminated = signal.getsignal(signal.SIGTERM)  # Ray would end the process in its own way
        if self._address == "local":
            small = {"num_cpus": self._jobs, "include_dashboard": False, "object_store_memory": 100 * 2**20}
            ray.init(address="local", **small, **QUIET)
        else:
            reach(self._address)
            ray.init(address=self._address, **QUIET)
        signal.signal(signal.SIGTERM, terminated)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what runs, and leave the cluster."""
        import ray

        for task in self._running:
            with contextlib.suppress(Exception):  # it has ended, or its node is gone
                ray.cancel(task, force=True)
        ray.shutdown()

    @property
    def room(self) -> bool:
        """Always: Ray keeps the queue."""
        return True

    def start(self, job: Job) -> None:
        """Hand a job to the cluster, if any of its nodes can do it."""
        import ray

        needs = self._needs(job)
        if missing := _missing(needs):
            self._refused.append((job, End("failed", f"no node of the cluster has {missing}")))
            return
        how = {"num_cpus": 1, "resources": needs, "num_gpus": _gpus(needs) if job.gpu else 0, "max_retries": 0}
        told = dict(job.kwargs), str(job.log), str(job)
        task = ray.remote(do).options(name=str(job), **how).remote(job.function, *told)
        self._running[task] = job, time.perf_counter()

    def ended(self) -> list[tuple[Job, End]]:
        """What has ended meanwhile, or waits for nodes that are gone."""
        import ray

        done, waiting = ray.wait(list(self._running), timeout=MOMENT_S) if self._running else ([], [])
        ends = [self._end(task, *self._running.pop(task)) for task in done]
        for task in waiting:
            job, start = self._running[task]
            if missing := _missing(self._needs(job)):
                ray.cancel(task, force=True)
                del self._running[task]
                ends.append((job, End("failed", f"the last node with {missing} is gone", time.perf_counter() - start)))
        refused, self._refused = self._refused, []
        return ends + refused

    def _needs(self, job: Job) -> dict[str, float]:
        return dict([self._gpus[job.kind]]) if job.kind else {}

    def _end(self, task: Any, job: Job, start: float) -> tuple[Job, End]:
        import ray

        seconds = time.perf_counter() - start
        try:
            told = ray.get(task)
        except ray.exceptions.RayError as error:  # a worker or a node that died
            return job, End("failed", f"{type(error).__name__}: {first_line(error)}", seconds)
        return job, End.of(told, told["seconds"], told["where"])


def do(function: str, kwargs: Mapping[str, Any], log: str, what: str) -> dict[str, Any]:
    """One job in a child of the worker, so that a builder that dies takes no worker with it; runs on the node."""
    import ray

    start, node = time.perf_counter(), ray.get_runtime_context().get_node_id()
    try:
        told = run_in_child(function, kwargs, what, Path(log))
    except UserError as error:
        told = {"outcome": "failed", "why": reason(error, what)}
    return {**told, "seconds": time.perf_counter() - start, "where": f"{os.uname().nodename} {node[:6]}"}


def _missing(needs: Mapping[str, float]) -> str | None:
    """The first resource that no living node has enough of."""
    return next((name for name, amount in needs.items() if not any(n.get(name, 0) >= amount for n in _alive())), None)


def _gpus(needs: Mapping[str, float]) -> float:
    """One, where nodes that fit tell Ray of their GPUs: Ray hides those from a task that asks for none."""
    fitting = [node for node in _alive() if all(node.get(name, 0) >= amount for name, amount in needs.items())]
    return float(any(node.get("GPU", 0) >= 1 for node in fitting))


def _alive() -> list[Mapping[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
