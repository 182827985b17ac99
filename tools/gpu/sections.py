"""The four sections of the check: each yields lines, and needs the ones before it for nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.commands import gpu
from benchmarks.commands.speed import bench
from benchmarks.work import Bench
from engines.errors import UserError
from engines.parity import SHARED
from tools.gpu import kernels
from tools.gpu.compiled import Kernels, compiled
from tools.gpu.finding import Finding
from tools.gpu.parts import Steps, compared, onnxruntime_runner, plan_runner, plans_possible, reference

CASES, QUICK_CASES = 4000, 400
Options = argparse.Namespace


def kernel_section(options: Options) -> Iterator[Finding]:
    """Compiled for this GPU, against twins and PyTorch, and timed."""
    major, minor = torch.cuda.get_device_capability()
    loaded = Kernels(compiled(options.folder, f"sm{major}{minor}"))
    yield from kernels.section(loaded, "cuda", options.cases or _of(options, QUICK_CASES, CASES), timed=True)


def onnxruntime_section(options: Options) -> Iterator[Finding]:
    """Every part in ONNX Runtime CUDA, in 16 bits, against fp32 on the CPU."""
    for other, steps in _references(options):
        yield from compared("ONNX Runtime CUDA", steps, other.dtype, partial(onnxruntime_runner, other))


def tensorrt_section(options: Options) -> Iterator[Finding]:
    """The same in TensorRT and TensorRT-RTX, where they build here."""
    possible = plans_possible()
    for target, why in possible.items():
        if why:
            yield Finding(target, "all parts", None, f"not run: {why}")
    targets = [target for target, why in possible.items() if not why]
    for other, steps in _references(options) if targets else ():
        batch = len(next(iter(steps.values()))[0]["pixel_values"])
        for target in targets:
            opened = partial(plan_runner, other, target=target, batch=batch, folder=options.folder)
            try:
                yield from compared(target, steps, other.dtype, opened)
            except UserError as error:  # the other target may do better
                yield Finding(target, f"all parts, {other.dtype}, batch {batch}", None, f"not run: {error}")


def speed_section(options: Options) -> Iterator[Finding]:
    """Prefill and first token beside eager and compiled PyTorch, and what of the ceiling is achieved."""
    parser = argparse.ArgumentParser()
    gpu.arguments(parser)
    words = ["--geometry", _of(options, "tiny", "7b"), "--rounds", _of(options, "3", "15"), "--dtype", *options.dtype]
    only = "ours-ort-cuda,torch-eager,torch-sdpa,torch-compile"
    given = parser.parse_args([*words, "--device", options.device, "--only", only])
    for found in gpu.measured(given):
        yield from _speeds(found)


def _speeds(found: dict[str, Any]) -> Iterator[Finding]:
    section = f"speed, {found['dtype']}"
    for line in found["lines"]:
        kept = (line["agrees"] or {}).get("kept", 1.0)
        seconds = {stage: f"{1e3 * each['median']:.1f} ms" for stage, each in line["seconds"].items()}
        what = f"{line['peer']} {line['side']}, batch {line['batch']}"
        detail = ", ".join(f"{stage} {value}" for stage, value in seconds.items())
        yield Finding(section, what, kept >= SHARED, f"{detail}; kept as the first line {kept:.0%}", line)
    for ratio in found["ratios"]:
        gains = [f"{stage} x{each['median']:.2f}{_possible(each)}" for stage, each in ratio["stages"].items()]
        what = f"{ratio['slow']} / {ratio['fast']}, batch {ratio['batch']}"
        yield Finding(section, what, None, ", ".join(gains), ratio)
    for name, why in found["missing"].items():
        yield Finding(section, name, None, why)


def _possible(stage: dict[str, Any]) -> str:
    return f" ({stage['achieved']:.0%} of x{stage['possible']:.2f})" if "achieved" in stage else ""


def _references(options: Options) -> Iterator[tuple[Bench, Steps]]:
    """Every precision at every batch, with the reference that it is compared with."""
    with bench(_of(options, "tiny", "7b"), None, keep=64) as shared:
        others = [replace(shared, dtype=dtype, device=options.device, kept={}) for dtype in options.dtype]
        for batch in (1, 8):
            steps = reference(shared, batch)
            yield from ((other, steps) for other in others)


def _of(options: Options, quick: Any, whole: Any) -> Any:
    return quick if options.quick else whole


Section = Callable[[Options], Iterator[Finding]]
SECTIONS: dict[str, Section] = {
    "kernels": kernel_section,
    "onnxruntime": onnxruntime_section,
    "tensorrt": tensorrt_section,
    "speed": speed_section,
}
