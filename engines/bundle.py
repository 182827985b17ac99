"""Opening a bundle: everything in it is checked before anything in it is used."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from engines.errors import UserError
from engines.json_file import read_object

FORMAT = 4
CONTRACT = "bundle.json"
# What readers open by its own name, if it is there.
KNOWN = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "parity.json", "clip/tokenizer.json")
SCHEMA: dict[str, type] = {
    "recipe": dict,
    "limits": dict,
    "model": dict,
    "plan": list,
    "pictures": list,
    "positions": str,
    "parts": dict,
    "groups": list,
    "ran": list,
    "prefill": list,
    "states": list,
    "warm_up": int,
    "slot_positions": bool,
    "kv": dict,
    "engines": dict,
    "files": dict,
}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and what bundle.json says."""

    dir: Path
    contract: dict[str, Any]


def open_bundle(path: Path, *, verify_later: bool = False) -> Bundle:
    """Opens a bundle; a file whose size and time are as recorded is not hashed again.

    Args:
        path: The directory.
        verify_later: The caller will `verify` all files before one is used, so that none is hashed twice.

    Raises:
        UserError: not a bundle, another format, or a file that is missing, changed, or not plain.
    """
    bundle = Bundle(path, _contract(path))
    _check_names(bundle)
    _check_parts(bundle)
    if not verify_later:
        verify(bundle, full=False)
    return bundle


def verify(bundle: Bundle, *, full: bool = True) -> None:
    """Compares every file with its record; full hashes even those whose modification time is as recorded.

    Raises:
        UserError: names the first file that is missing, changed, or not a plain file inside the bundle.
    """
    for name, record in bundle.contract["files"].items():
        path = _inside(bundle.dir, name)
        found = path.lstat()
        trusted = not full and found.st_mtime_ns == record["mtime_ns"]
        if found.st_size != record["bytes"]:
            raise UserError(f"{path} has {found.st_size} bytes, not {record['bytes']}; {_REMEDY}")
        if not trusted and hash_file(path) != record["sha256"]:
            raise UserError(f"{path} is not what was exported (its sha256 differs); {_REMEDY}")


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contract_hash(contract: Mapping[str, Any]) -> str:
    """sha256 of what bundle.json says, without the entry that holds it, in hex."""
    said = {key: value for key, value in contract.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


_REMEDY = "copy the bundle again or export it anew"


def _contract(path: Path) -> dict[str, Any]:
    """bundle.json, parsed, with its top-level fields and file records checked."""
    file = path / CONTRACT
    if not file.is_file() or file.is_symlink():
        raise UserError(f"{path} is not a bundle: it has no {CONTRACT}")
    contract = read_object(file)
    if contract.get("format") != FORMAT:
        raise UserError(f"{file}: not bundle format {FORMAT}; open it with the tp-export version that wrote it")
    for key, kind in SCHEMA.items():
        if not isinstance(contract.get(key), kind):
            raise UserError(f"{file}: '{key}' is missing or not a {kind.__name__}; {_REMEDY}")
    if contract.get("sha256") != contract_hash(contract):
        raise UserError(f"{file} is not what was exported (its sha256 differs); {_REMEDY}")
    for name, record in contract["files"].items():
        if not _is_record(record):
            raise UserError(f"{file}: the record of '{name}' lacks sha256, bytes or mtime_ns; {_REMEDY}")
    return contract


def _is_record(record: object) -> bool:
    kinds = {"sha256": str, "bytes": int, "mtime_ns": int}
    return isinstance(record, dict) and all(isinstance(record.get(k), kind) for k, kind in kinds.items())


def _check_names(bundle: Bundle) -> None:
    """What readers open is recorded: the files of parts and engines, and those with names of their own."""
    contract = bundle.contract
    for name in KNOWN:
        if os.path.lexists(bundle.dir / name) and name not in contract["files"]:
            raise UserError(f"{bundle.dir / name} is not what was exported: {CONTRACT} has no record of it; {_REMEDY}")
    for kind in ("parts", "engines"):
        for name, entry in contract[kind].items():
            named = _named(entry)
            if not all(isinstance(file, str) for file in named):
                raise UserError(f"{bundle.dir}/{CONTRACT}: {kind}.{name} names no files; {_REMEDY}")
            if stray := sorted(set(named) - contract["files"].keys()):
                raise UserError(f"{bundle.dir}/{CONTRACT}: {kind}.{name} uses {stray[0]}, which has no record")


def _named(entry: object) -> list[object]:
    """What a part or an engine names as files: engines, the graphs they came from, layer lists, a plugin's library."""
    if not isinstance(entry, dict) or not isinstance(entry.get("files"), dict):
        return [None]
    more = [entry[key] for key in ("graphs", "layers") if entry.get(key) is not None]
    if not all(isinstance(each, dict) for each in more):
        return [None]
    plugin = entry.get("plugin")
    library = [] if plugin is None else [plugin.get("file") if isinstance(plugin, dict) else None]
    return [*entry["files"].values(), *(file for each in more for file in each.values()), *library]


def _check_parts(bundle: Bundle) -> None:
    """Parts and engines have the fields that readers rely on."""
    for name, engine in bundle.contract["engines"].items():
        for key in ("target", "dtype"):
            if not isinstance(engine.get(key), str):
                raise UserError(f"{bundle.dir}/{CONTRACT}: engines.{name} does not say its {key}; {_REMEDY}")
    for name, part in bundle.contract["parts"].items():
        tensors = [part.get("inputs"), part.get("outputs")]
        if not all(isinstance(side, list) and all(_is_tensor(t) for t in side) for side in tensors):
            raise UserError(f"{bundle.dir}/{CONTRACT}: part {name} does not describe its inputs and outputs")


def _is_tensor(entry: object) -> bool:
    kinds = {"name": str, "dtype": str, "shape": list}
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(k), kind) for k, kind in kinds.items())
        and isinstance(entry.get("meaning", ""), str)
    )


def _inside(folder: Path, name: str) -> Path:
    """The path of a named file, which must be a plain file below folder, reached through plain folders."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise UserError(f"{folder}: bundle.json names '{name}', which is not a path inside the bundle")
    path = folder
    for part in parts:
        path /= part
        try:
            mode = path.lstat().st_mode
        except OSError:
            raise UserError(f"{folder}: {name} is missing; {_REMEDY}") from None
        if stat.S_ISLNK(mode):
            raise UserError(f"{folder}: {name} is or goes through a symbolic link; bundles hold plain files only")
    if not stat.S_ISREG(mode):
        raise UserError(f"{folder}: {name} is not a plain file")
    return path
