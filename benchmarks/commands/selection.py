"""What selecting costs: FLOPs and time of the selection alone, as shares of the vision tower's."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from rich.console import Console

from benchmarks.commands.speed import write
from benchmarks.cutout import cut, selecting
from benchmarks.geometry import GEOMETRIES, checkpoint, with_tiles
from benchmarks.machine import about, cpus
from benchmarks.report import told
from benchmarks.timing import spread
from benchmarks.work import TEXT
from engines.errors import UserError
from exporter.build_parts import Tracer
from exporter.draft import Draft
from exporter.plan import picture_cuts
from exporter.progress import Reporter
from exporter.publish import place
from exporter.recipe import Recipe
from exporter.registry import method, method_names
from graph_passes.cost import cost

DENSE, CONSTANT = "none", "grid"  # keeps everything; keeps constant places
REPEATS = 5  # of a selection in one round: it takes milliseconds, the tower seconds
AXES = {"words": TEXT}  # every other dynamic axis is 1
Feeds = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """CLIP ViT-L/14-336 at full size with random weights; the projector's rows are 4096 wide."""
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="all that see pictures, unless given")
    parser.add_argument("--model", choices=("llava-1.5", "llava-next"), default="llava-1.5", help="1 or 5 views")
    parser.add_argument("--keep", type=int, nargs="+", default=[64], help="rows kept of a picture, all views together")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="tower")
    parser.add_argument("--out", type=Path, help="write everything that was measured as JSON")


def main(options: argparse.Namespace) -> int:
    """Trace, cut, time in turn, print the table."""
    names = options.methods or [name for name in method_names() if _plain(name)]
    with tempfile.TemporaryDirectory(prefix="tp-export-bench-") as folder:
        root = Path(folder)
        model = checkpoint(root / "model", GEOMETRIES[options.geometry])
        if options.model == "llava-next":
            with_tiles(model)
        tower = Tower(model, root)
        found = {"kind": "selection", **about(), "model": options.model, "geometry": options.geometry}
        found |= {"patches": tower.draft.shape.patches * tower.views, "keeps": options.keep}
        found |= measured(tower, names, options.keep, options.rounds)
    print(told(found))
    write(options.out, found)
    return 0


class Tower:
    """The vision part that keeps everything, and the selection of any method, cut out of its own."""

    def __init__(self, model: Path, root: Path) -> None:
        self.root = root
        self.recipe = Recipe(model=str(model), targets=("ort-cpu",), max_length=4096)  # all of five views
        self.draft = self._draft(DENSE, None)
        for file in self.draft.checkpoint.files:
            place(self.draft.checkpoint.path(file), root / file)
        self.views = self.draft.shape.views
        self.plain: dict[int, ir.Model] = {}
        path = self._graph(self.draft, DENSE)
        self.dense = ir.load(path)
        self.flops = cost(self.dense, AXES).flops or 0.0
        self.session = _session(path)
        self.feeds = _feeds(self.session)

    def seconds(self) -> float:
        """One picture through the tower."""
        return _seconds(self.session, self.feeds)

    def selection(self, name: str, keep: int) -> tuple[onnxruntime.InferenceSession, Feeds, dict[str, Any]]:
        """The selection of one method, what it reads, and what is known of it.

        Raises:
            UserError: the method does not select here.
        """
        draft = self._draft(name, keep)
        if not picture_cuts(draft.stages):
            raise UserError("selects in the decoder only")
        model = ir.load(path := self._graph(draft, f"{name}-{keep}"))
        places = selecting(model, [self.dense, self._constant(keep)])
        piece = cut(path, places, path.with_suffix(".selection.onnx"))
        whole, before = _session(piece.whole), cost(model, AXES).flops or 0.0
        given = _feeds(whole)
        read = [name for name in piece.inputs if name not in given]
        feeds = dict(zip(read, whole.run(read, given), strict=True)) if read else {}
        feeds |= {name: given[name] for name in piece.inputs if name in given}
        model.graph.remove([model.graph[place] for place in places])
        flops = before - (cost(model, AXES).flops or 0.0)
        told = {"flops": flops, "flops_share": flops / self.flops, "nodes": piece.nodes}
        return _session(piece.path), feeds, told

    def _constant(self, keep: int) -> ir.Model:
        if keep not in self.plain:
            self.plain[keep] = ir.load(self._graph(self._draft(CONSTANT, keep), f"{CONSTANT}-{keep}"))
        return self.plain[keep]

    def _draft(self, name: str, keep: int | None) -> Draft:
        """Where a method acts view by view, each view keeps its part."""
        budget = None if keep is None else str(keep)
        draft = Draft.of(replace(self.recipe, method=name, keep=budget))
        views = draft.shape.views
        if keep and views > 1 and draft.stages and draft.stages[0].stack == "tower":
            draft = Draft.of(replace(draft.recipe, keep=str(max(1, keep // views))))
        return draft

    def _graph(self, draft: Draft, name: str) -> Path:
        whole = replace(draft, prompts=())  # however the decoder is cut, nobody runs it
        parts = Tracer(whole, "fp32", self.root).all(Reporter(Console(quiet=True), 0))
        place(parts[draft.main.form.part].file, self.root / f"{name}.onnx")
        return self.root / f"{name}.onnx"


def measured(tower: Tower, names: list[str], keeps: list[int], rounds: int) -> dict[str, Any]:
    """Every round: the tower once, then every selection; a share is of the same round."""
    ready, facts, missing = {}, dict[str, dict[str, Any]](), {}
    for name in names:
        for keep in keeps:
            try:
                session, feeds, fact = tower.selection(name, keep)
            except UserError as error:
                missing[name] = f"not run: {error}"
                break
            ready[name, keep] = (session, feeds)
            facts.setdefault(name, {})[str(keep)] = fact
            print(f"{name} {keep}: {fact['nodes']} nodes", file=sys.stderr, flush=True)
    shares: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in ready}
    towers = []
    for number in range(rounds + 1):
        whole = tower.seconds()
        towers += [whole] if number else []
        for key, (session, feeds) in ready.items():
            each = min(_seconds(session, feeds) for _ in range(REPEATS))
            shares[key] += [(each, whole)] if number else []
    for (name, keep), pairs in shares.items():
        told = {"seconds": spread([s for s, _ in pairs]), "share": spread([s / w for s, w in pairs])}
        facts[name][str(keep)] |= told
    return {"methods": facts, "missing": missing, "tower": {"seconds": spread(towers), "flops": tower.flops}}


def _plain(name: str) -> bool:
    return name not in {DENSE, CONSTANT} and not method(name).needs & {"clip", "video"}


def _session(path: Path) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = cpus()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def _feeds(session: onnxruntime.InferenceSession) -> Feeds:
    """One random picture and as many words."""
    dice, made = np.random.default_rng(0), {}
    for port in session.get_inputs():
        shape = [size if isinstance(size, int) else AXES.get(size, 1) for size in port.shape]
        ones = port.type == "tensor(int64)"
        made[port.name] = np.ones(shape, np.int64) if ones else dice.standard_normal(shape, np.float32)
    return made


def _seconds(session: onnxruntime.InferenceSession, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start
