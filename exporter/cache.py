"""Results kept by the hash of what they were made from, so that a second export does only what is new."""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from engines.bundle import hash_file
from engines.errors import UserError
from exporter.disk import full_disk_in_words
from exporter.workbench import locked, workbench

SUMS = "sums.json"
PACKAGES = ("exporter", "graph_passes", "engines")
IN_USE_S = 3600  # an entry touched this recently may still be read by another process


def base() -> Path:
    """The cache's place: $TP_EXPORT_CACHE, else the user's cache directory."""
    chosen = os.environ.get("TP_EXPORT_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("tp-export")


def cached(
    kind: str, key: Mapping[str, Any], make: Callable[[Path], None], store: Path | None = None
) -> tuple[Path, bool]:
    """A directory made once for each (kind, key) and kept.

    Args:
        kind: what it holds; another kind never shares an entry.
        key: JSON-able; everything the content depends on, with `source_hash()` where code matters.
        make: fills an empty directory with files; whatever it raises leaves no entry behind.
        store: another place than the cache's, such as one that many machines share; nothing there is ever evicted.

    Returns:
        The directory, and whether it was there already, intact. Read-only for the caller: an entry that was
        changed is made anew.
    """
    entry = _place(kind, key, store)
    if _intact(entry):
        return entry, True
    _cap()  # a mistake there is told before any work
    with full_disk_in_words(entry.parent), workbench(entry.parent) as fresh:
        make(fresh)
        (fresh / SUMS).write_text(json.dumps(_sums(fresh)), encoding="utf-8")
        _install(fresh, entry)
    if store is None:
        evict(keep=entry)
    return entry, False


def recall(kind: str, key: Mapping[str, Any]) -> Path | None:
    """The directory that `cached` made, if it is still there, intact."""
    entry = _place(kind, key)
    return entry if _intact(entry) else None


def identity(kind: str, key: Mapping[str, Any]) -> str:
    """sha256 of what an entry is made from, in hex."""
    said = json.dumps([kind, key], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(said.encode()).hexdigest()


def sha256_of(entry: Path, name: str) -> str:
    """What `cached` found to be the sha256 of an entry's file, in hex."""
    return str(json.loads((entry / SUMS).read_bytes())[name][1])


def evict(keep: Path | None = None) -> None:
    """Removes entries, least recently used first, until the cap ($TP_EXPORT_CACHE_GIB, 20) is kept.

    Entries used within the last hour stay, so that none vanishes under another running export.
    """
    parts, now = base() / "parts", time.time()
    entries = [place for place in parts.iterdir() if not place.name.startswith(".")] if parts.is_dir() else []
    ages = {place: now - _touched(place) for place in entries}
    over = sum(map(size, entries)) - _cap()
    for entry in sorted(entries, key=lambda place: -ages[place]):
        if over <= 0 or ages[entry] < IN_USE_S:
            break
        if entry != keep:
            over -= size(entry)
            shutil.rmtree(entry, ignore_errors=True)


def size(folder: Path) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile does not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(root, name).lstat().st_size
    return total


@cache
def source_hash(*folders: str) -> str:
    """sha256 over the .py files of this tool, or of some of its folders, in hex.

    A tool that changed reuses nothing that the changed files made before.
    """
    digest = hashlib.sha256()
    for folder in folders or PACKAGES:
        package, *below = folder.split("/")
        root = Path(str(files(package)))
        for file in sorted(root.joinpath(*below).rglob("*.py")):
            digest.update(f"{package}/{file.relative_to(root).as_posix()} {hash_file(file)}\n".encode())
    return digest.hexdigest()


def _place(kind: str, key: Mapping[str, Any], store: Path | None = None) -> Path:
    return (store or base()) / "parts" / identity(kind, key)


def _install(fresh: Path, entry: Path) -> None:
    """Gives a finished entry its name; an intact one, which another process just made, wins."""
    with locked(entry.parent.parent):
        if not _intact(entry):
            shutil.rmtree(entry, ignore_errors=True)
            fresh.rename(entry)


def _intact(entry: Path) -> bool:
    """Touches an entry, so that no one evicts it now, and compares it with its record."""
    try:
        with suppress(OSError):  # in a store that is only read
            os.utime(entry)
        return bool(json.loads((entry / SUMS).read_bytes()) == _sums(entry))
    except (OSError, ValueError):
        return False


def _touched(place: Path) -> float:
    """When an entry was last used; infinitely late if it vanished meanwhile."""
    try:
        return place.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _sums(folder: Path) -> dict[str, list[int | str]]:
    """Size and sha256 of every file of an entry but the record itself."""
    found = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / SUMS)
    return {f.relative_to(folder).as_posix(): [f.stat().st_size, hash_file(f)] for f in found}


def _cap() -> float:
    """The cap in bytes."""
    text = os.environ.get("TP_EXPORT_CACHE_GIB", "20")
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not gib >= 0:
        raise UserError(f"TP_EXPORT_CACHE_GIB='{text}' is not a number of GiB")
    return gib * 2**30
