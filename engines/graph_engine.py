"""What backends share whose engine is the .onnx file itself."""

import os

from engines.child import run_in_child
from engines.errors import UserError
from engines.registry import BuildJob, BuildResult, Dtype

RUNNABLE: tuple[Dtype, ...] = ("fp32", "fp16")  # precisions that runtimes of graphs compute on a CPU


def cpus() -> int:
    """The CPUs that this process may use, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_options(target: str, options: tuple[str, ...]) -> None:
    """Raises UserError: a target without options was given some."""
    if options:
        raise UserError(f"target {target} takes no options: drop ':{','.join(options)}'")


def proved(job: BuildJob, function: str, what: str) -> BuildResult:
    """Lets a child process open the graph, by a function of the backend ("module:name") that returns "seconds".

    Raises:
        UserError: it cannot; the line begins with `what`.
    """
    found = run_in_child(function, {"onnx": str(job.onnx), "light": job.light}, what, job.log)
    return BuildResult(job.onnx, found["seconds"], job.onnx.stat().st_size, found["peak_mib"])
