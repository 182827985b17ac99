"""Is everything right on this machine's NVIDIA GPU, and how fast: `gpu_check.py`, without a network.

Sections: the plugin's kernels on thousands of random cases against their NumPy twins and PyTorch, and their times;
every part of a 7B bundle in ONNX Runtime CUDA and in TensorRT against fp32 on the CPU; prefill and first token beside
PyTorch, with what of the ceiling is achieved. Prints a table, writes JSON. Exits with 1 if a line is wrong, with 2 if
there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.machine import about
from engines.errors import UserError
from engines.tables import print_tables
from tools.gpu.finding import Finding, table, told
from tools.gpu.sections import SECTIONS, Section

OUT = Path(__file__).parents[1] / "benchmarks" / "results" / "gpu_check.json"


def parsed(words: list[str]) -> argparse.Namespace:
    """The options."""
    summary = str(__doc__).splitlines()[0]
    parser = argparse.ArgumentParser(prog="gpu_check.py", description=summary)
    parser.add_argument("--quick", action="store_true", help="few cases, and a tiny model instead of 7B")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
                        help="of " + ", ".join(SECTIONS))  # fmt: skip
    parser.add_argument("--cases", type=int, help="random cases of each kernel")
    parser.add_argument("--dtype", nargs="+", choices=("fp16", "bf16"), default=["fp16", "bf16"])
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    parser.set_defaults(device="cuda")
    return parser.parse_args(words)


def main(words: list[str], sections: Mapping[str, Section] = SECTIONS) -> int:
    """Check, print, write."""
    options = parsed(words)
    if not torch.cuda.is_available():
        print("error: no CUDA GPU here (torch.cuda.is_available() is false): run this where one is", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="tp-export-gpu-") as folder:
        options.folder = Path(folder)
        found = [line for name in options.only for line in _lines(name, sections[name], options)]
    print_tables([table(found)], Console())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps(report(found, torch.cuda.get_device_name(), words), indent=1) + "\n", encoding="utf-8"
    )
    print(f"wrote {options.out}")
    return int(any(line.good is False for line in found))


def _lines(name: str, section: Section, options: argparse.Namespace) -> Iterator[Finding]:
    """A section's lines as they come; one that cannot go on says why, and the next has its turn."""
    try:
        for line in section(options):
            print(f"{line.section}: {line.what}: {line.word} {line.detail}", file=sys.stderr, flush=True)
            yield line
    except UserError as error:
        yield Finding(name, "the rest", None, f"not run: {error}")
    except Exception as error:  # noqa: BLE001 - whatever CUDA and its libraries raise is a finding
        yield Finding(name, "the rest", good=False, detail=f"{type(error).__name__}: {one_line(error)}")


def one_line(error: Exception) -> str:
    """What it says, short."""
    return " ".join(str(error).split())[:300]


def report(found: list[Finding], gpu: str, words: list[str]) -> dict[str, Any]:
    """The JSON form."""
    command = " ".join(["python tools/gpu_check.py", *words])
    return {"kind": "gpu_check", **about(), "command": command, "gpu": gpu, "lines": told(found)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
