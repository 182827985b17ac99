"""What people look at: the speed on this machine, the preview, the tables, the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines import report
from engines.ceiling import Ceiling, ceiling
from engines.flops import prefill_flops, vision_flops
from engines.images import open_image, visible
from engines.measure import Pair, compare
from engines.parity import Case, Run
from engines.preview import Case as Shown
from engines.preview import preview
from engines.session import Session
from engines.summary import details, summary
from engines.tables import Table
from engines.units import times
from exporter.draft import Draft

MOST_FLOPS = 2e11  # of the dense model; more would take longer than the export
TEXT = 40  # words around the picture in the cost tables


def ceilings(draft: Draft, told: Mapping[str, Any]) -> list[Ceiling]:
    """The most this budget can give on the named GPU."""
    after = [group["tokens"] for group in told["groups"] for _ in range(*group["layers"])]
    geometry = draft.family(draft.config, None).geometry(draft.tokens)  # type: ignore[arg-type]
    return [ceiling(geometry, draft.shape.patches, after, TEXT, draft.recipe.gpu)]


def too_large(draft: Draft) -> str | None:
    """Why the dense model is not timed here; None if it is."""
    geometry = draft.family(draft.config, None).geometry(draft.shape.patches)  # type: ignore[arg-type]
    flops = prefill_flops(geometry, [draft.shape.patches + TEXT] * geometry.layers) + vision_flops(geometry)
    return f"the dense model takes {flops / 1e12:.1f} TFLOP" if flops > MOST_FLOPS else None


def time_both(dense: Session, pruned: Session, folder: Path, case: Case) -> list[Pair]:
    """Dense against pruned on the first case's picture and prompt."""
    return compare(dense, pruned, open_image(folder / case.picture), case.ids)


def picture(draft: Draft, session: Session, cases: list[Case], found: Run, root: Path) -> bytes:
    """Draw preview.png: one row for each picture, with the engines' own answer."""
    shown, seen = [], set[str]()
    for number, case in enumerate(cases):
        if case.picture in seen:
            continue
        seen.add(case.picture)
        image = visible(open_image(root / "parity" / case.picture), draft.preprocess)
        kept = [index for index in found.kept[number].tolist() if index >= 0]
        answer = session.prompt.decode([t for t in found.tokens[number] if t not in session.contract.eos])
        shown.append(Shown(image, draft.facts.grid, kept, case.question, answer.strip()))
    preview(shown, root / "preview.png")
    return (root / "preview.png").read_bytes()


def write_parity(parity: Mapping[str, Any], pairs: list[Pair], root: Path) -> None:
    """parity.json, with the speed measured in the same run."""
    speed = [asdict(pair) for pair in pairs]
    (root / "parity.json").write_text(json.dumps({**parity, "speed": speed}, indent=1) + "\n", encoding="utf-8")


def write_report(
    told: Mapping[str, Any],
    parity: Mapping[str, Any],
    limits: list[Ceiling],
    pairs: list[Pair],
    png: bytes,
    root: Path,
) -> None:
    """report.html, from the same tables that the terminal shows."""
    sizes = {
        path.relative_to(root).as_posix(): {"bytes": path.stat().st_size} for path in root.rglob("*") if path.is_file()
    }
    shown = {**told, "files": sizes}
    report.write_report(shown, [*tables(shown, parity, limits, pairs), *details(shown)], png, root / "report.html")


def tables(told: Mapping[str, Any], parity: Mapping[str, Any], limits: list[Ceiling], pairs: list[Pair]) -> list[Table]:
    """What an export ends with."""
    measured = [
        (
            pair.what,
            f"{pair.dense_s * 1e3:.1f} ms",
            f"{pair.pruned_s * 1e3:.1f} ms",
            times(pair.ratio),
            f"{times(pair.least)} to {times(pair.most)}",
        )
        for pair in pairs
    ]
    columns = ("on this machine", "dense", "pruned", "ratio", "spread")
    note = "ONNX Runtime, CPU, fp32, batch 1; both sides alternate in one run; median of the rounds."
    speed = [Table("Measured", columns, tuple(measured), note)] if pairs else []
    shown = summary(told, parity, limits)
    return [*shown[:3], *speed, *shown[3:]]
