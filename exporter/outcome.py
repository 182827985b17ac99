"""What people look at: the speed on this machine, the preview, the tables, the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines import report
from engines.flops import prefill_flops, vision_flops
from engines.load import TEXT
from engines.measure import Pair, compare
from engines.parity import Case, Run, opened
from engines.preview import Case as Shown
from engines.preview import preview
from engines.session import Session
from engines.summary import details, summary
from engines.tiles import views_of
from exporter.contract import geometry
from exporter.draft import Draft, Planned
from exporter.panels import Panel, panels

MOST_FLOPS = 2e11  # of the dense model; more would take longer than the export


def too_large(draft: Draft) -> str | None:
    """Why the dense model is not timed here; None if it is."""
    sizes = geometry(draft, draft.shape.tokens)
    rows = max([draft.shape.tokens + TEXT, *(each.tokens for each in draft.prompts)])
    flops = prefill_flops(sizes, [rows] * sizes.layers) + vision_flops(sizes)
    return f"the dense model takes {flops / 1e12:.1f} TFLOP" if flops > MOST_FLOPS else None


def time_both(dense: Session, pruned: Session, folder: Path, case: Case) -> list[Pair]:
    """Dense against pruned on the first case's picture and prompt."""
    return compare(dense, pruned, opened(pruned, case, folder) if case.picture else None, case.ids)


def picture(draft: Draft, session: Session, cases: list[Case], found: Run, root: Path) -> bytes:
    """Draw preview.png: each picture once, in a row for each of its panels, with the engines' own answer."""
    shown, seen = list[Shown](), set[str]()
    for number, case in enumerate(cases):
        if case.picture in seen:
            continue
        seen.add(case.picture)
        answer = session.prompt.decode([t for t in found.tokens[number] if t not in session.contract.eos])
        kept = surviving(found, number, case, session, whole=draft.reducer.prompt)
        *others, last = _panels(draft, draft.planned[found.forms[number]], session, case, kept, root)
        shown += [*(Shown(*panel) for panel in others), Shown(*last, case.question, answer.strip())]
    preview(shown, root / "preview.png")
    return (root / "preview.png").read_bytes()


def surviving(found: Run, number: int, case: Case, session: Session, *, whole: bool) -> NDArray[Any]:
    """The patches of a case's picture that are left behind the last cut that leaves any."""
    kept = found.kept[number]
    named = sorted(found.cuts[number].items(), key=lambda item: int(item[0].rpartition(".")[2]))
    cuts = [values[0] for _, values in named]
    if not (left := [rows[rows >= 0] for rows in cuts if rows.size]):
        return kept
    placeholders = session.contract.geometry.placeholders
    first = next(i for i, token in enumerate(case.ids) if token in placeholders) if whole else 0
    rows = left[-1] - first
    return np.asarray(kept[rows[(rows >= 0) & (rows < len(kept))]])


def _panels(
    draft: Draft, planned: Planned, session: Session, case: Case, kept: NDArray[Any], root: Path
) -> list[Panel]:
    """What was kept of a case's picture, in the form that it took."""
    views = views_of(opened(session, case, root / "parity"), planned.preprocess)
    shape = planned.shape
    family = draft.family(draft.config, nn.Module(), planned.form)
    places = family.numbers(torch.arange(shape.patches).expand(shape.views, -1)).flatten().tolist()
    number = {place: number for number, place in enumerate(places)}  # other rows are no patches
    return panels(views, planned.form, shape.grid, [number[place] for place in kept.tolist() if place in number])


def write_parity(parity: Mapping[str, Any], pairs: list[Pair], root: Path) -> dict[str, Any]:
    """parity.json, with the speed measured in the same run; returns what it says."""
    told = {**parity, "speed": [asdict(pair) for pair in pairs]}
    (root / "parity.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def write_report(told: Mapping[str, Any], parity: Mapping[str, Any], png: bytes | None, root: Path) -> None:
    """report.html, from the same tables that the terminal shows."""
    files = [path for path in root.rglob("*") if path.is_file()]
    shown = {**told, "files": {path.relative_to(root).as_posix(): {"bytes": path.stat().st_size} for path in files}}
    report.write_report(shown, [*summary(shown, parity), *details(shown)], png, root / "report.html")
