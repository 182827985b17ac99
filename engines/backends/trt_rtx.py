"""TensorRT-RTX: plans for NVIDIA RTX GPUs, built ahead of time on any machine, also one without a GPU."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engines.child import run_in_child
from engines.errors import UserError
from engines.registry import BuildJob, BuildResult, Dtype, Runner

name = "trt-rtx"
extension = ".plan"
install = "pip install tensorrt-rtx-cu13"


def available() -> str | None:
    """None if the TensorRT-RTX builder is installed."""
    return None if find_spec("tensorrt_rtx") else "tensorrt_rtx is not installed"


def version() -> str:
    """The builder's version."""
    import tensorrt_rtx

    return str(tensorrt_rtx.__version__)


def dtype(checkpoint: Dtype) -> Dtype:
    """The checkpoint's own 16-bit type; fp16 for an fp32 checkpoint."""
    return "bf16" if checkpoint == "bf16" else "fp16"


def legal(dtype: Dtype) -> tuple[str, ...]:
    """The builder gives up over attention in fp32, for which it has no kernel, unless it is written out."""
    return ("explicit_attention",) if dtype == "fp32" else ()


def check(options: tuple[str, ...]) -> None:
    """Raises UserError unless every option is a GPU generation that the builder knows, such as "sm89"."""
    if not options:
        return
    if reason := available():
        raise UserError(f"target {name} is not available: {reason}; {install}")
    known = _generations()
    unknown = [option for option in options if option not in known]
    if unknown or len(set(options)) < len(options):
        wrong = f"unknown GPU '{unknown[0]}'" if unknown else "a GPU is named twice"
        raise UserError(f"target {name}:{','.join(options)}: {wrong}; known are {', '.join(known)}")


def build(job: BuildJob) -> BuildResult:
    """Builds a plan in a child process; it runs on all RTX GPUs from Ampere on, unless options name some.

    The details count fused attention layers, summed over profiles, by kernel name: "fused_attention".
    """
    check(job.options)
    ranges = "; ".join(_words(profile) for profile in job.profiles) or "static shapes"
    kwargs = {
        "onnx": str(job.onnx),
        "out": str(job.out),
        "profiles": [dict(profile) for profile in job.profiles],
        "gpus": job.options,
    }
    job.out.parent.mkdir(parents=True, exist_ok=True)
    what = f"building '{job.part}' for {name} ({ranges})"
    found = run_in_child("engines.rtx_build:build_plan", kwargs, what, job.log)
    details = {"fused_attention": found["fused_attention"]}
    return BuildResult(job.out, found["seconds"], job.out.stat().st_size, found["peak_mib"], details)


def load(path: Path, *, low: bool = False) -> Runner:  # noqa: ARG001 - the contract of every backend
    """Always raises UserError: plans run in TensorRT-RTX applications, not in this package."""
    raise UserError(f"{path}: trt-rtx plans run on an NVIDIA GPU in the TensorRT-RTX runtime; run ort-cpu here instead")


def _generations() -> list[str]:
    """GPU generations that the installed builder can build for, as options spell them."""
    import tensorrt_rtx as trt

    return [cc.lower() for cc in trt.ComputeCapability.__members__ if cc.startswith("SM")]


def _words(profile: Mapping[str, Any]) -> str:
    """A profile's first input, enough to know it in an error line: 'pixel_values 1x3x96x96..4x3x96x96'."""
    key, (low, _, high) = next(iter(profile.items()))
    return f"{key} {'x'.join(map(str, low))}..{'x'.join(map(str, high))}"
