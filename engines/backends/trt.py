"""TensorRT: plans for the NVIDIA GPU at hand, built and run on the machine that has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.registry import BuildJob, BuildResult, Dtype, Runner
from engines.settings import Settings
from engines.trt.gpu import PORTABLE, generation, missing
from engines.trt.native import FULL, installed, native

name = "trt"
extension = ".plan"
install = "pip install 'tp-export[tensorrt]'"
settings = frozenset(Settings.__dataclass_fields__)


def available() -> str | None:
    """None if TensorRT is installed and there is a GPU."""
    if not installed(FULL):
        return "tensorrt is not installed"
    return f"{reason}: build on the machine that will run it, or use trt-rtx" if (reason := missing()) else None


def version() -> str:
    """The builder's version."""
    return str(native(FULL).__version__)


def at_hand() -> tuple[str, ...]:
    """The generation of this machine's GPU, which is what a target without options stands for."""
    return (here,) if (here := generation()) else ()


def dtype(checkpoint: Dtype) -> Dtype:
    """The checkpoint's own 16-bit type; fp16 for an fp32 checkpoint."""
    return "bf16" if checkpoint == "bf16" else "fp16"


def legal(dtype: Dtype, *, loops: bool = False) -> tuple[str, ...]:
    """What the installed version reads: see `engines.trt.versions.form`."""
    from engines.trt.versions import form, of

    return form(of(version()), dtype, loops=loops)


def check(options: tuple[str, ...]) -> None:
    """Raises UserError unless there are none, or the one is the generation of the GPU at hand, such as "sm90"."""
    here = at_hand()
    if options and options != here:
        found = f"the GPU here is {here[0]}" if here else "there is no NVIDIA GPU here"
        wanted = ",".join(options)
        raise UserError(f"target {name}:{wanted}: {found}; build on a machine with {wanted}, or use trt-rtx:{wanted}")


def build(job: BuildJob) -> BuildResult:
    """Builds a plan for the GPU at hand, in a child process; the details are those of `engines.trt.job.build`."""
    from engines.trt.job import build as build_plan

    check(job.options)
    portable = job.settings.hardware == "ampere+"
    return build_plan(job, name, FULL, PORTABLE if portable else ",".join(at_hand()))


def fits(entry: Mapping[str, Any]) -> None:
    """Raises UserError, with the command that helps, if engines of this bundle entry cannot run on this machine."""
    from engines.trt.fits import check_fits

    check_fits(entry, name, FULL, install)


def load(path: Path, *, low: bool = False) -> Runner:
    """The plan as a function over named arrays, on this machine's GPU; see `engines.trt.runtime`."""
    from engines.trt.runtime import open_plan

    return open_plan(path, name, FULL, low=low)
