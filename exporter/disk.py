"""What the file system is asked for beyond reading and writing."""

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engines.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
FICLONE = 0x40049409  # linux/fs.h
BLOCK = 2**24  # bytes that are in memory of a file on its way

Tell = Callable[[int], None]  # hears how many bytes of a file are there


def exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False, with nothing changed, where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def share(source: BinaryIO, target: BinaryIO) -> bool:
    """Lets an empty file share another's blocks; False, with nothing changed, where the file system cannot."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.ioctl(target, FICLONE, source.fileno())
    except OSError:
        return False
    return True


def move_blocks(source: BinaryIO, target: BinaryIO, tell: Tell) -> bool:
    """Copies into an empty file within the kernel; False, with nothing written, where that cannot be done."""
    size, done = os.fstat(source.fileno()).st_size, 0
    while done < size:
        try:
            moved = os.copy_file_range(source.fileno(), target.fileno(), BLOCK, done, done)
        except (AttributeError, OSError) as error:
            if done or getattr(error, "errno", None) in FULL:
                raise
            return False
        if not moved:  # the file was cut meanwhile: whoever called compares sizes
            break
        tell(done := done + moved)
    return True


def stream(source: BinaryIO, target: BinaryIO, tell: Tell) -> str:
    """Copies block by block and hashes on the way: sha256 in hex of what was written."""
    digest, block, done = hashlib.sha256(), memoryview(bytearray(BLOCK)), 0
    while count := source.readinto(block):  # type: ignore[attr-defined]
        target.write(block[:count])
        digest.update(block[:count])
        tell(done := done + count)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Forces one file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Forces all files, then all directories, to the disk."""
    below = sorted(folder.rglob("*"), key=Path.is_dir)
    for path in [*below, folder]:
        sync(path)


def existing(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


@contextmanager
def full_disk_in_words(place: Path) -> Iterator[None]:
    """Turns a full disk or an exceeded quota, wherever it shows inside the block, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        folder = existing(place)
        free = shutil.disk_usage(folder).free / 2**30
        raise UserError(f"no space left in {folder} ({free:.1f} GiB free): make room and run again") from error
