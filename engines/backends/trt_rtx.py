"""TensorRT-RTX: plans for NVIDIA RTX GPUs, built ahead of time on any machine, also one without a GPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.registry import BuildJob, BuildResult, Dtype, Runner
from engines.trt.gpu import PORTABLE
from engines.trt.native import RTX, installed, native

name = "trt-rtx"
extension = ".plan"
install = "pip install 'tp-export[rtx]'"
settings = frozenset({"plugin", "weight_streaming", "level"})


def available() -> str | None:
    """None if the TensorRT-RTX builder is installed."""
    return None if installed(RTX) else "tensorrt_rtx is not installed"


def version() -> str:
    """The builder's version."""
    return str(native(RTX).__version__)


def dtype(checkpoint: Dtype) -> Dtype:
    """The checkpoint's own 16-bit type; fp16 for an fp32 checkpoint."""
    return "bf16" if checkpoint == "bf16" else "fp16"


def legal(dtype: Dtype, *, loops: bool = False) -> tuple[str, ...]:
    """What the builder reads: see `engines.trt.versions.form`."""
    from engines.trt.versions import RTX as VERSION
    from engines.trt.versions import form

    return form(VERSION, dtype, loops=loops)


def check(options: tuple[str, ...]) -> None:
    """Raises UserError unless every option is a GPU generation that the builder knows, such as "sm89"."""
    if not options:
        return
    if reason := available():
        raise UserError(f"target {name} is not available: {reason}; {install}")
    known = [cc.lower() for cc in native(RTX).ComputeCapability.__members__ if cc.startswith("SM")]
    unknown = [option for option in options if option not in known]
    if unknown or len(set(options)) < len(options):
        wrong = f"unknown GPU '{unknown[0]}'" if unknown else "a GPU is named twice"
        raise UserError(f"target {name}:{','.join(options)}: {wrong}; known are {', '.join(known)}")


def build(job: BuildJob) -> BuildResult:
    """Builds a plan in a child process; it runs on all RTX GPUs from Ampere on, unless options name some.

    The details are those of `engines.trt.job.build`.
    """
    from engines.trt.job import build as build_plan

    check(job.options)
    return build_plan(job, name, RTX, ",".join(job.options) or PORTABLE)


def fits(entry: Mapping[str, Any]) -> None:
    """Raises UserError, with the command that helps, if engines of this bundle entry cannot run on this machine."""
    from engines.trt.fits import check_fits

    check_fits(entry, name, RTX, install)


def load(path: Path, *, low: bool = False) -> Runner:
    """The plan as a function over named arrays, on this machine's GPU; see `engines.trt.runtime`."""
    from engines.trt.runtime import open_plan

    return open_plan(path, name, RTX, low=low)
