"""What selecting costs: FLOPs and ONNX Runtime time of each method, as a share of the vision tower.

    python benchmarks/selection_cost.py [--keep 64] [--rounds 5] [--out FILE] [METHOD …]

The tower is CLIP ViT-L/14-336 at full size (24 layers, 577 rows of 1024) with random weights, the projector's rows are
4096 wide. Every method is timed in turn with `grid`, which selects by a constant; the difference is the selection.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.flops import graph_flops
from exporter.build_parts import Tracer
from exporter.demo import demo_checkpoint
from exporter.demo_llava import random_weights, save_shards
from exporter.draft import Draft
from exporter.progress import Reporter
from exporter.publish import place
from exporter.recipe import Recipe
from exporter.registry import method, method_names

TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
DECODER = {"hidden_size": 4096, "intermediate_size": 256, "num_attention_heads": 32, "num_hidden_layers": 2}
BESIDE = "grid"  # what every method is compared with
WORDS = 40


def checkpoint(folder: Path) -> Path:
    """LLaVA-1.5 with CLIP-L's own tower, hardly any decoder, and random weights."""
    skeleton = demo_checkpoint("demo:llava-1.5")
    for file in skeleton.iterdir():
        if file.suffix != ".safetensors" and "index" not in file.name:
            place(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= TOWER
    config["text_config"] |= DECODER
    (folder / "config.json").write_text(json.dumps(config))
    save_shards(random_weights(folder), folder)
    return folder


def graph(name: str, model: Path, keep: str, root: Path) -> Path:
    """The vision part with one method, beside its weights."""
    draft = Draft.of(Recipe(model=str(model), method=name, keep=keep, targets=("ort-cpu",)))
    built = Tracer(draft, "fp32", root).all(Reporter(Console(quiet=True), 0))["vision"]
    place(built.file, root / f"{name}.onnx")
    return root / f"{name}.onnx"


def feeds(session: onnxruntime.InferenceSession) -> dict[str, NDArray[Any]]:
    """One random picture and as many words."""
    dice, made = np.random.default_rng(0), {}
    for port in session.get_inputs():
        shape = [size if isinstance(size, int) else {"words": WORDS}.get(size, 1) for size in port.shape]
        ones = port.type == "tensor(int64)"
        made[port.name] = np.ones(shape, np.int64) if ones else dice.standard_normal(shape, np.float32)
    return made


def seconds(session: onnxruntime.InferenceSession, fed: Mapping[str, NDArray[Any]]) -> float:
    """One run."""
    start = time.perf_counter()
    session.run(None, fed)
    return time.perf_counter() - start


def measure(path: Path, beside: Path, rounds: int) -> dict[str, float]:
    """Alternate a method with the constant selection; the median difference and its spread."""
    sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in (path, beside)]
    fed = [feeds(session) for session in sessions]
    pairs = [[seconds(s, f) for s, f in zip(sessions, fed, strict=True)] for _ in range(rounds + 1)][1:]
    shares = sorted((mine - constant) / constant for mine, constant in pairs)
    mine, constant = (graph_flops(ir.load(file)) for file in (path, beside))
    return {
        "tower_s": statistics.median(constant for _, constant in pairs),
        "share": statistics.median(shares),
        "least": shares[0],
        "most": shares[-1],
        "gflops": (mine - constant) / 1e9,
        "flops_share": (mine - constant) / constant,
    }


def main() -> None:
    """Measure and print a line for each method; write all of it at the end."""
    parser = argparse.ArgumentParser(description="What selecting costs, as a share of the vision tower.")
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--keep", default="64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wanted = options.methods or [n for n in method_names() if n not in {"none", BESIDE} and _plain(n)]
    found = {}
    with tempfile.TemporaryDirectory() as place_:
        root = Path(place_)
        (root / "model").mkdir()
        model = checkpoint(root / "model")
        for shard in model.glob("*.safetensors"):
            place(shard, root / shard.name)
        beside = graph(BESIDE, model, options.keep, root)
        for name in wanted:
            found[name] = row = measure(graph(name, model, options.keep, root), beside, options.rounds)
            spread = f"{row['least']:+.1%} to {row['most']:+.1%}"
            work = f"{row['gflops']:8.3f} GFLOP {row['flops_share']:+7.2%}"
            print(f"{name:14} {work}   time {row['share']:+7.1%} ({spread}) of {row['tower_s']:.2f} s", flush=True)
    if options.out:
        told = {"command": " ".join(sys.argv), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
        told["versions"] = {name: version(name) for name in ("torch", "onnxruntime-gpu") if _has(name)}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**told, "keep": options.keep, "methods": found}, indent=1) + "\n")


def _plain(name: str) -> bool:
    return not method(name).needs & {"clip", "video"}


def _has(package: str) -> bool:
    try:
        return bool(version(package))
    except ImportError:
        return False


if __name__ == "__main__":
    main()
