"""What a job does, in a process of its own: one bundle exported, or the engines of one target built into it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.bundle import CONTRACT, open_bundle
from engines.errors import UserError
from engines.settings import Settings
from exporter import __version__
from exporter.extras import require_export
from exporter.recipe import Recipe

Told = dict[str, Any]  # "outcome": built, reused, refused, failed; "why"; "bytes"


def export(recipe: Mapping[str, Any], out: str) -> Told:
    """Export a bundle, unless it is there already."""
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()}
    wanted, place = Recipe(**known), Path(out)
    if _is_there(wanted, place):
        return {"outcome": "reused", "bytes": _bytes(place)}
    try:
        require_export("an export")
    except UserError as error:
        return {"outcome": "failed", "why": str(error)}
    from exporter.draft import Draft
    from exporter.export import export as make

    try:
        Draft.of(wanted)
    except UserError as error:
        return {"outcome": "refused", "why": str(error)}
    try:
        make(wanted, place, Console(file=sys.stdout), force=True)
    except UserError as error:
        return {"outcome": "failed", "why": str(error)}
    return {"outcome": "built", "bytes": _bytes(place)}


def build(bundle: str, target: str, told: Mapping[str, Any], store: str | None) -> Told:
    """Build one target's engines into a bundle, with what settings and options `told` has."""
    from exporter.add_engines import Wish, add_engines

    chosen = {key: value for key, value in told.items() if key in Settings.__dataclass_fields__}
    more = {key: value for key, value in told.items() if key not in chosen}
    wish = Wish([target], **more, settings=Settings(**chosen), store=Path(store) if store else None)
    try:
        added = add_engines(Path(bundle), wish, Console(file=sys.stdout))
    except UserError as error:
        return {"outcome": "failed", "why": str(error)}
    label = (added.built or added.kept)[0]
    size = sum(added.contract["engines"][label]["bytes"].values())
    return {"outcome": "built" if added.built else "reused", "bytes": size}


def _is_there(wanted: Recipe, place: Path) -> bool:
    """Whether a whole bundle is what would be exported now, and no file of the user's is younger than it."""
    with suppress(UserError, OSError, KeyError):
        contract = open_bundle(place).contract
        said, asked = contract["recipe"], json.loads(json.dumps(asdict(wanted)))
        asked["max_length"] = asked["max_length"] or said["max_length"]
        made = (place / CONTRACT).stat().st_mtime_ns
        sources = [Path(each).expanduser() for each in (wanted.model, *wanted.aux.values())]
        young = any(
            file.stat().st_mtime_ns > made for each in sources for file in (each, *each.glob("*")) if each.exists()
        )
        return said == asked and contract["tp_export"] == __version__ and not young
    return False


def _bytes(place: Path) -> int:
    """Of all files that an export leaves."""
    files = open_bundle(place).contract["files"].items()
    return sum(record["bytes"] for name, record in files if not name.startswith("engines/"))
