"""What exporting a decoder costs in time and memory: weights by reference, beside torch.onnx.export with real ones."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.commands.speed import write
from benchmarks.machine import about
from engines.tables import Table, print_tables

GIB = 2**30
Found = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoints of `tools/big_checkpoint.py` or real ones; each run is a process of its own, one after the other."""
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--most", type=float, default=1.5, help="export the ordinary way up to so many GB of weights")
    parser.add_argument("--out", type=Path, help="write everything that was measured as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure, print the table."""
    rows = []
    for checkpoint in options.checkpoints:
        row: Found = {"checkpoint": checkpoint.name, "ours": _alone(ours, checkpoint)}
        if row["ours"]["bytes"] <= options.most * 1e9:
            row["ordinary"] = _alone(ordinary, checkpoint)
        rows.append(row)
    found = {"kind": "export_cost", **about(), "rows": rows}
    print_tables([table(found)], Console())
    write(options.out, found)
    return 0


def table(found: Found) -> Table:
    """Both ways side by side."""
    cells = []
    for row in found["rows"]:
        ours, other = row["ours"], row.get("ordinary")
        theirs = [f"{other['seconds']:.1f} s", f"{other['peak'] / GIB:.2f} GiB"] if other else ["-", "-"]
        size = f"{ours['parameters'] / 1e9:.2f} B"
        cells.append((row["checkpoint"], size, f"{ours['seconds']:.1f} s", f"{ours['peak'] / GIB:.2f} GiB", *theirs))
    columns = ("decoder of", "parameters", "ours", "peak memory", "torch.onnx.export", "peak memory")
    note = "fp16, without imports. Ours writes no weights: the bundle's shards are moved once, whatever their number."
    return Table("Exporting a decoder", columns, tuple(cells), note)


def ours(checkpoint: str, folder: str) -> Found:
    """Traced with fake parameters, passed, saved; the weights stay where they are."""
    from exporter.trace import fake_model, save, trace, uncollected
    from exporter.weights import attach, match
    from graph_passes.pipeline import optimise

    draft, make = _draft(checkpoint)
    start = time.perf_counter()
    family, mode = fake_model(draft.family, draft.config, "fp16", _attention())
    parameters = match(family, draft.checkpoint)
    with uncollected():
        traced = time.perf_counter()
        model = trace(make(family), "fp16", mode)
        passed = time.perf_counter()
        attach(model, parameters, Path(folder))
        optimise(model)
    save(model, Path(folder) / "decoder.onnx")
    end = time.perf_counter()
    steps = {"trace_s": passed - traced, "passes_s": end - passed}
    return {**_told(draft, start, end, Path(folder)), **steps, "nodes": len(model.graph)}


def ordinary(checkpoint: str, folder: str) -> Found:
    """The same module with its weights in memory through torch.onnx.export as anyone calls it, and saved."""
    import torch

    from exporter.trace import OPSET, examples, quiet

    draft, make = _draft(checkpoint)
    import transformers

    start = time.perf_counter()
    stock = getattr(transformers, draft.family.architectures[0])
    model = stock.from_pretrained(checkpoint, dtype=torch.float16, attn_implementation=_attention()).eval()
    part = make(draft.family(draft.config, model))
    example, dynamic = examples(part, "fp16")
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            part, example, dynamo=True, opset_version=OPSET, dynamic_shapes=dynamic, verbose=False
        )
    assert program is not None
    program.save(str(Path(folder) / "decoder.onnx"), external_data=True)
    return _told(draft, start, time.perf_counter(), Path(folder))


def _draft(checkpoint: str) -> tuple[Any, Callable[[Any], Any]]:
    """The plan without pruning, and what makes the one decoder part of a family's model."""
    from exporter.caches import Group
    from exporter.draft import Draft
    from exporter.parts.base import Job
    from exporter.parts.decode import DecodePart
    from exporter.recipe import Recipe

    draft = Draft.of(Recipe(model=checkpoint, method="none", targets=("ort-cpu",)))
    whole = (Group(0, draft.facts.layers, draft.tokens),)
    return draft, lambda family: DecodePart(Job(family, draft.reducer, (), 1, (), ()), whole)


def _attention() -> str:
    from exporter.attention import register

    return register()


def _told(draft: Any, start: float, end: float, folder: Path) -> Found:
    decoder = [t for name, t in draft.checkpoint.tensors.items() if "vision" not in name and "projector" not in name]
    written = sum(file.stat().st_size for file in folder.iterdir())
    about = {"parameters": sum(math.prod(t.shape) for t in decoder), "bytes": sum(t.nbytes for t in decoder)}
    return {**about, "seconds": end - start, "written": written}


def _alone(measure: Callable[[str, str], Found], checkpoint: Path) -> Found:
    """In a fresh process, whose peak of resident memory is its own."""
    fresh = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as folder, fresh as pool:
        return pool.submit(_with_peak, measure, str(checkpoint), folder).result()


def _with_peak(measure: Callable[[str, str], Found], checkpoint: str, folder: str) -> Found:
    found = measure(checkpoint, folder)
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return {**found, "peak": int(peak[1]) * 1024 if peak else 0}
