"""A model of real size is traced without its weights: the checkpoint is headers and holes."""

import multiprocessing
import re
from pathlib import Path

import pytest
from rich.console import Console

from exporter.build_parts import Tracer
from exporter.draft import Draft
from exporter.progress import Reporter
from exporter.recipe import Recipe
from tools.big_checkpoint import write_checkpoint

pytestmark = pytest.mark.matrix
GIB = 2**30


def test_no_step_reads_a_whole_shard(tmp_path):
    write_checkpoint("llava-1.1b", tmp_path, sparse=True)
    stored = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        parts, peak = pool.apply(traced, (str(tmp_path),))
    assert parts == ["vision", "embed", "decoder"]
    assert peak < GIB < stored / 2


def traced(folder):
    """The parts of an export in fp16, and the peak of resident memory; runs in a process of its own."""
    draft = Draft.of(Recipe(model=folder, method="fastervlm", keep="64", targets=("ort-cpu",)))
    parts = Tracer(draft, "fp16", Path(folder)).all(Reporter(Console(quiet=True), 0))
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return list(parts), int(peak[1]) * 1024
