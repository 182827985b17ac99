"""Directories to work in that no other process touches, and that do not outlive their process for long."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import UserError
from exporter.disk import FULL

NEW = ".new-"


@contextmanager
def workbench(parts: Path) -> Iterator[Path]:
    """An empty directory in `parts`, gone in the end unless it was renamed.

    Its lock says that someone works in it, and falls with the process: what killed ones left is removed here.

    Raises:
        UserError: the folder above cannot be written.
    """
    with locked(parts.parent):
        parts.mkdir(exist_ok=True)
        for place in parts.glob(f"{NEW}*"):
            if (left := claim(place)) is not None:
                shutil.rmtree(place, ignore_errors=True)
                os.close(left)
        fresh = Path(tempfile.mkdtemp(dir=parts, prefix=NEW))
        lock = claim(fresh)
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time is in here.

    Raises:
        UserError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UserError(f"cannot write the cache {folder}: {error.strerror}; set TP_EXPORT_CACHE") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def claim(folder: Path) -> int | None:
    """Locks a directory; None if another process has, or has just given it its final name."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
