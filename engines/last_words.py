"""What became of a child process: its answer, or one line from its exit status and its log."""

import json
import re
import signal
from pathlib import Path
from typing import Any

from engines.errors import UserError

TROUBLE = re.compile(r"error|fail|exception|terminate|assert|what\(\)|fatal", re.IGNORECASE)
LONGEST = 300


def last_line(log: Path) -> str:
    """The last line of a log that speaks of trouble, else its last line; printable characters only."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        text = file.read().decode("utf-8", errors="replace")
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    chosen = next((line for line in reversed(lines) if TROUBLE.search(line)), lines[-1] if lines else "")
    return chosen[:LONGEST]


def understood(code: int, answer: bytes, failed: str, log: Path, relief: str) -> dict[str, Any]:
    """The child's result, or one line about what became of it."""
    if code:
        raise UserError(f"{failed}: {_death(code, relief)}: {last_line(log) or 'it printed nothing'} (log: {log})")
    try:
        said = json.loads(answer)
    except ValueError:
        raise UserError(f"{failed}: the child process left no answer (log: {log})") from None
    if "error" in said:
        raise UserError(f"{failed}: {said['error']} (log: {log})")
    if not isinstance(said["result"], dict):
        raise UserError(f"{failed}: the child process answered nonsense: {said['result']!r} (log: {log})")
    return {**said["result"], "peak_mib": said["peak_mib"]}


def _death(code: int, relief: str) -> str:
    """What an exit status means, in words, and for a child that was killed what may help."""
    if code > 0:
        return f"the child process exited with {code}"
    name = signal.Signals(-code).name
    return f"the child process died of {name}" + (f", out of memory? {relief}".rstrip() if name == "SIGKILL" else "")
