"""Dense and pruned, ours and others': vision, prefill and first token, interleaved in one process."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.compare import compared
from benchmarks.geometry import GEOMETRIES, checkpoint
from benchmarks.machine import about
from benchmarks.report import told
from benchmarks.work import Bench


def arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen; all of it takes some ten minutes on two idle cores."""
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7, help="of the smallest batch; half of it for others")
    parser.add_argument("--keep", type=int, default=64, help="patches kept of 576")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="full")
    parser.add_argument("--layers", type=int, nargs=2, metavar=("TOWER", "DECODER"), help="other depths")
    parser.add_argument("--only", help="peers whose names begin so, comma-separated: " + ", ".join(peers.names()))
    parser.add_argument("--out", type=Path, help="write everything that was measured as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure all batches, print the table, write the file."""
    found = {"kind": "speed", **about(), "keep": options.keep, "geometry": options.geometry, "rounds": options.rounds}
    with bench(options.geometry, options.layers, options.keep) as shared:
        found |= compared(shared, options.batch, options.rounds, chosen(options.only))
    print(told(found))
    write(options.out, found)
    return 0


@contextmanager
def bench(
    geometry: str, layers: tuple[int, int] | None, keep: int, dtype: str = "fp32", device: str = "cpu"
) -> Iterator[Bench]:
    """A checkpoint of this geometry in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tp-export-bench-") as folder:
        model = checkpoint(Path(folder) / "model", GEOMETRIES[geometry].deep(layers))
        yield Bench(model, Path(folder), keep, dtype, device)


def chosen(only: str | None) -> list[str]:
    """Peers by the beginnings of their names."""
    words = tuple(only.split(",")) if only else ("",)
    return [name for name in peers.names() if name.startswith(words)]


def write(out: Path | None, found: dict[str, Any]) -> None:
    """The file that `report` reads."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"wrote {out}", file=sys.stderr)
