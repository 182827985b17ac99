"""How shards get into a bundle: blocks shared by the file system, a hard link, or one copy."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

from engines.errors import UserError
from exporter.checkpoint import Checkpoint
from exporter.disk import Tell, move_blocks, share, stream

Way = Literal["copy", "link"]
REASONS = {
    errno.EXDEV: "they lie on different file systems",
    errno.EPERM: "the system forbids hard links to it",
    errno.EMLINK: "the file has too many links",
}


def bring(opened: Checkpoint, file: str, target: Path, way: Way, tell: Tell) -> str:
    """One of a checkpoint's files as `target`, a new plain file; its bytes move at most once.

    Args:
        opened: the checkpoint.
        file: which of its files.
        target: its place in the bundle.
        way: "copy": a file of its own, with shared blocks where the file system can; "link": the same file under
            another name.
        tell: hears how many bytes are there.

    Returns:
        "linked", "shared blocks" or "copied".

    Raises:
        UserError: it cannot be linked, or was changed while it was copied.
    """
    source = opened.path(file)
    before = source.stat()
    done, seen = (_linked(source, target), None) if way == "link" else _copied(opened, file, target, tell)
    after = source.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or (
        target.stat().st_size != after.st_size
    ):
        raise UserError(f"{source} was changed while it was copied: export again when it is complete")
    if seen is not None:
        opened.content_hash(file, seen)
    return done


def _linked(source: Path, target: Path) -> str:
    try:
        os.link(source, target)
    except OSError as error:
        reason = REASONS.get(error.errno or 0)
        if reason is None:
            raise
        raise UserError(f"--weights link: {source} cannot be linked into {target.parent}: {reason}; copy it") from error
    return "linked"


def _copied(opened: Checkpoint, file: str, target: Path, tell: Tell) -> tuple[str, str | None]:
    """A copy is hashed on its way, unless the hash is remembered: then the kernel copies."""
    with opened.path(file).open("rb", buffering=0) as source, target.open("xb") as copy:
        if share(source, copy):
            return "shared blocks", None
        if opened.known_hash(file) is not None and move_blocks(source, copy, tell):
            return "copied", None
        return "copied", stream(source, copy, tell)
