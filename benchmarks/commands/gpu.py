"""The same on a CUDA GPU, at 7B: PyTorch and ONNX Runtime, and what of the roofline's ceiling is achieved."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.commands.speed import bench, chosen, write
from benchmarks.compare import compared
from benchmarks.geometry import GEOMETRIES
from benchmarks.machine import about
from benchmarks.report import told
from benchmarks.work import METHOD, TEXT, Bench
from engines.ceiling import Ceiling, ceiling
from engines.errors import UserError
from engines.gpus import GPUS
from exporter.contract import geometry
from exporter.draft import Draft
from exporter.recipe import Recipe

WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0}


def arguments(parser: argparse.ArgumentParser) -> None:
    """7B takes some 60 GB of memory on host and GPU."""
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", type=int, default=64, help="patches kept of 576")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="7b")
    parser.add_argument("--layers", type=int, nargs=2, metavar=("TOWER", "DECODER"), help="other depths")
    parser.add_argument("--dtype", nargs="+", choices=WEIGHT_BYTES, default=["fp16", "bf16"])
    parser.add_argument("--gpu", help="whose ceiling: " + ", ".join(GPUS) + "; this one's unless given")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the same lines without")
    parser.add_argument("--only", help="peers whose names begin so, comma-separated: " + ", ".join(peers.names()))
    parser.add_argument("--out", type=Path, help="write everything as JSON, one file a precision: NAME.fp16.json")


def main(options: argparse.Namespace) -> int:
    """Measure each precision, print tables and ceilings.

    Raises:
        UserError: there is no CUDA GPU.
    """
    for found in measured(options):
        print(told(found))
        write(options.out and options.out.with_suffix(f".{found['dtype']}.json"), found)
    return 0


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All lines in each precision.

    Raises:
        UserError: there is no CUDA GPU.
    """
    gpu = options.gpu or _this(options.device)
    for dtype in options.dtype:
        found = {"kind": "gpu", **about(), "keep": options.keep, "geometry": options.geometry, "dtype": dtype}
        with bench(options.geometry, options.layers, options.keep, dtype, options.device) as shared:
            tops = {batch: _ceiling(shared, gpu, batch) for batch in options.batch}

            def possible(batch: int, tops: dict[int, Ceiling] = tops) -> dict[str, float]:
                return {"prefill": tops[batch].prefill_speedup, "first token": tops[batch].ttft_speedup}

            found |= compared(shared, options.batch, options.rounds, chosen(options.only), possible)
        found["ceiling"] = {str(batch): _told(top) for batch, top in tops.items()}
        yield found


def _this(device: str) -> str:
    """The GPU of this machine, as `engines.gpus` calls it.

    Raises:
        UserError: there is none, or one whose peaks are not known.
    """
    import torch

    if device == "cpu":
        return "h200"
    if not torch.cuda.is_available():
        raise UserError("no CUDA GPU here (torch.cuda.is_available() is false): run this where there is one")
    name = torch.cuda.get_device_name().lower().replace(" ", "")
    known = [each for each in GPUS if each in name]
    if not known:
        raise UserError(f"the peaks of {torch.cuda.get_device_name()} are not known: choose a near one with --gpu")
    return known[0]


def _ceiling(shared: Bench, gpu: str, batch: int) -> Ceiling:
    recipe = Recipe(model=str(shared.model), method=METHOD, keep=str(shared.keep), targets=("ort-cpu",))
    draft = Draft.of(recipe)
    sizes = geometry(draft, draft.main.projected)
    return ceiling(sizes, draft.shape.patches, shared.keep, TEXT, gpu, batch, WEIGHT_BYTES[shared.dtype])


def _told(top: Ceiling) -> dict[str, Any]:
    """The most that each stage can gain, and the whole answer of 64 tokens."""
    gains = {"prefill": top.prefill_speedup, "first token": top.ttft_speedup, "64 tokens": top.total_speedup(64)}
    return {"gpu": top.gpu.name, "flop_ratio": top.flop_ratio, **gains}
