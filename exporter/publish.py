"""Publishing a directory in one step: the old one or the new one, never half of either."""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.bundle import CONTRACT, contract_hash, hash_file
from engines.errors import UserError
from exporter.disk import FULL, exchange, existing, full_disk_in_words, share, sync, sync_tree

Records = dict[str, dict[str, str | int]]  # by a file's name in the bundle: sha256, bytes, mtime_ns
EMPTY: Records = {}


def check_target(target: Path, *, force: bool) -> None:
    """Says before any work whether target may be written, and tidies what killed runs left beside it.

    Raises:
        UserError: something is in the way, or its folder cannot be written.
    """
    _recover(target)
    _check(target, force=force)


@contextmanager
def staging(target: Path, *, force: bool) -> Iterator[Path]:
    """An empty directory beside target that becomes target when the block ends well.

    Whatever goes wrong before that removes it and leaves target as it was. A kill leaves target as it was,
    too, or already complete; the next `check_target` tidies up.

    Raises:
        UserError: as check_target, and when the disk is full.
    """
    check_target(target, force=force)
    tmp = _sibling(target, "staging")
    with full_disk_in_words(target):
        try:
            _make(tmp, target)
            yield tmp
            sync_tree(tmp)
            _check(target, force=force)  # it may have appeared meanwhile
            _publish(tmp, target)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)  # after a swap this is the old bundle


def seal(tmp: Path, contract: Mapping[str, Any], known: Records = EMPTY) -> dict[str, Any]:
    """Records every file's size, time and sha256 and writes bundle.json, last; returns the full contract.

    Files with a `known` record that are as they were then are not read again.
    """
    files = {}
    for path in sorted(p for p in tmp.rglob("*") if not p.is_dir() or p.is_symlink()):
        found = path.lstat()
        assert stat.S_ISREG(found.st_mode), f"bundles hold plain files only: {path}"
        name = path.relative_to(tmp).as_posix()
        files[name] = record(path, str(known[name]["sha256"]) if name in known else "")
        if files[name] != known.get(name):
            files[name] = record(path, hash_file(path))
    sealed = {**contract, "files": files}
    sealed["sha256"] = contract_hash(sealed)
    (tmp / CONTRACT).write_text(json.dumps(sealed, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return sealed


def record(path: Path, sha256: str) -> dict[str, str | int]:
    """What bundle.json says of a file whose hash is known."""
    found = path.lstat()
    return {"sha256": sha256, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def place(src: Path, dst: Path) -> None:
    """Puts a file's content at dst, a new plain file: shared blocks where the file system can, else one copy.

    Never a link: loaders of external data refuse symbolic links, and some hard links.
    """
    with src.open("rb") as source, dst.open("xb") as target:
        if not share(source, target):
            shutil.copyfileobj(source, target, 2**24)


def is_bundle(path: Path) -> bool:
    """Whether a path is a directory of its own that holds a bundle's contract, whatever that says."""
    return path.is_dir() and not path.is_symlink() and (path / CONTRACT).is_file()


def alive(pid: str) -> bool:
    """Whether another process has this id; our own stands for a dead one (ids repeat in containers)."""
    if not pid.isdecimal():
        return True  # not a name that we give
    if int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _check(target: Path, *, force: bool) -> None:
    if not target.name or target.name == "..":
        raise UserError(f"'{target}' cannot name a bundle: give a new directory's name")
    if os.path.lexists(target):
        if not is_bundle(target):
            raise UserError(f"{target} exists and is not a bundle: remove it yourself, or choose another name")
        if not force:
            raise UserError(f"{target} exists: choose another name, or replace it with --force")
    folder = existing(target.absolute().parent)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {target}: {folder} is not a directory that you may write to")


def _make(tmp: Path, target: Path) -> None:
    try:
        tmp.mkdir(parents=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UserError(f"cannot write {target}: {error.strerror}; choose another place with --output") from error


def _recover(target: Path) -> None:
    """Restores a bundle whose replacement was killed half way, and removes what dead processes left."""
    if not target.parent.is_dir():
        return
    for word in ("previous", "staging"):
        prefix = f".{target.name}.{word}-"
        for left in [p for p in target.parent.iterdir() if p.name.startswith(prefix)]:
            if alive(left.name.removeprefix(prefix)):
                continue
            if word == "previous" and not os.path.lexists(target):
                left.rename(target)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _publish(tmp: Path, target: Path) -> None:
    """Gives tmp the name target; an old target is then at tmp."""
    if not os.path.lexists(target):
        tmp.rename(target)
    elif not exchange(tmp, target):
        previous = _sibling(target, "previous")
        try:
            target.rename(previous)
            tmp.rename(target)
        finally:
            if not os.path.lexists(target):
                previous.rename(target)
        previous.rename(tmp)  # a half deleted bundle must not look like one to restore
    sync(target.parent)


def _sibling(target: Path, word: str) -> Path:
    return target.with_name(f".{target.name}.{word}-{os.getpid()}")
