"""A checkpoint directory: found, and checked before a byte of it is used."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engines.bundle import hash_file
from engines.errors import UserError
from engines.json_file import read_object
from exporter.cache import cached, recall
from exporter.section import shown
from exporter.shard import Tensor, read_header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
PICKLES = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        dir: its directory.
        config: config.json.
        tensors: every tensor's place, by name.
        files: names of the shards that hold them, sorted.
        places: where files lie that are not in `dir`.
    """

    dir: Path
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    files: list[str]
    places: Mapping[str, Path] = field(default_factory=dict)

    def path(self, file: str) -> Path:
        """Where one of its files really lies."""
        return self.places.get(file, self.dir / file).resolve()

    def fingerprint(self) -> str:
        """sha256 over the config and all shard headers, in hex: cheap; says nothing about the values."""
        tensors = {name: asdict(tensor) for name, tensor in self.tensors.items()}
        return hashlib.sha256(json.dumps([self.config, tensors], sort_keys=True).encode()).hexdigest()

    def content_hash(self, file: str, seen: str | None = None) -> str:
        """sha256 of one of its files, in hex; remembered while its path, size and mtime are the same.

        `seen` is what someone got who read all of it just now: then it is not read again.
        """
        entry, _ = cached(
            "sha256", self._stamp(file), lambda folder: _note(folder / "sha256", seen or hash_file(self.path(file)))
        )
        return (entry / "sha256").read_text(encoding="ascii")

    def known_hash(self, file: str) -> str | None:
        """The same, if it is remembered."""
        entry = recall("sha256", self._stamp(file))
        return None if entry is None else (entry / "sha256").read_text(encoding="ascii")

    def _stamp(self, file: str) -> dict[str, str | int]:
        path = self.path(file)
        found = path.stat()
        return {"path": str(path), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def find(model: str) -> Path:
    """The directory of a checkpoint: a path, or a hub id "org/name", downloaded without code and pickles.

    Raises:
        UserError: neither exists, or the hub cannot be reached.
    """
    try:
        path = Path(model).expanduser()
        is_folder, is_file = bool(model) and path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise UserError(f"{shown(model)} is no directory here: {getattr(error, 'strerror', error)}") from None
    if is_folder:
        return path
    if is_file:
        raise UserError(f"{model} is a file: give the directory that holds config.json and the safetensors")
    if not HUB_ID.fullmatch(model):
        raise UserError(f"'{model}' is no directory here; give a checkpoint directory or a hub id 'org/name'")
    return _download(model)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads the config and all shard headers; no tensor data.

    Raises:
        UserError: something is missing, truncated, inconsistent, or only there as a pickle.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a checkpoint: it has no config.json")
    config = read_object(folder / "config.json")
    wanted = _weight_map(folder)
    names = sorted(set(wanted.values())) if wanted else [SINGLE]
    headers = {name: _shard(folder, name) for name in names}
    if not wanted:
        return Checkpoint(folder, config, headers[SINGLE], names)
    for tensor, name in wanted.items():
        if tensor not in headers[name]:
            raise UserError(f"{folder / INDEX}: tensor '{tensor}' is not in {name}, where the index puts it")
    return Checkpoint(folder, config, {t: headers[name][t] for t, name in wanted.items()}, names)


def _shard(folder: Path, name: str) -> dict[str, Tensor]:
    if not (folder / name).is_file():
        raise UserError(f"{folder}: shard {name} is missing, though {INDEX} names it")
    return read_header(folder / name)


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> shard name; empty for a checkpoint of one file."""
    if (folder / SINGLE).is_file():
        return {}
    if not (folder / INDEX).is_file():
        raise UserError(_no_weights(folder))
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{folder / INDEX} has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise UserError(f"{folder / INDEX} names {name!r}, which is not a plain *.safetensors file name")
    return weight_map


def _no_weights(folder: Path) -> str:
    if any(True for pattern in PICKLES for _ in folder.glob(pattern)):
        return (
            f"{folder} has its weights as pickles only, which can run code: convert them, if you trust them, "
            "with model.save_pretrained(..., safe_serialization=True)"
        )
    return f"{folder} has neither {SINGLE} nor {INDEX}"


def _download(model: str) -> Path:
    """A checkpoint from the hub, or from its local cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=HUB_FILES))
    except Exception as error:  # the client's many exceptions share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"'{model}' is no directory here, and the hub did not give it: {reason}") from error


def _note(file: Path, text: str) -> None:
    file.write_text(text, encoding="ascii")
