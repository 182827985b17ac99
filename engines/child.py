"""One function of ours in a child process: builders abort and crash, and a death must become one line."""

import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import UserError

TROUBLE = re.compile(r"error|fail|exception|terminate|assert|what\(\)|fatal", re.IGNORECASE)
LONGEST = 300
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_in_child(function: str, kwargs: Mapping[str, Any], what: str, log: Path) -> dict[str, Any]:
    """Calls a function in a fresh interpreter and waits for it, however long it takes.

    The child gets its request as JSON on stdin and leaves its answer in a nameless file of its own, so that
    nothing a builder prints can be taken for the answer. A KeyboardInterrupt kills the child, and on Linux it
    dies with its parent in any case.

    Args:
        function: "package.module:name" of a function that takes and returns what JSON can hold.
        kwargs: its keyword arguments.
        what: begins the error line: which part is being built, for what, with which profiles.
        log: receives the child's stdout and stderr, and stays; its folder is made if missing.

    Returns:
        The function's own dict and "peak_mib": the child's peak resident memory in MiB.

    Raises:
        UserError: the child raised, exited, crashed, or returned something that is not a dict.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # -P and -c: the user's folder, which may hold an `engines` of its own, stays off the module path
    command = [sys.executable, "-P", "-c", "from engines.child import serve; serve()"]
    with tempfile.TemporaryFile() as answer, log.open("wb") as output:
        handle = answer.fileno()
        request = json.dumps({"function": function, "kwargs": dict(kwargs), "answer": handle, "parent": os.getpid()})
        child = subprocess.run(
            command, input=request.encode(), stdout=output, stderr=subprocess.STDOUT, pass_fds=(handle,), check=False
        )
        answer.seek(0)
        return _understand(child.returncode, answer.read(), what, log)


def serve() -> None:
    """Answers one request; runs in the child. Whatever is raised but a UserError ends up in the log."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    module, _, name = request["function"].partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**request["kwargs"])
        answer = {"result": result, "peak_mib": _peak_mib()}
    except UserError as error:
        answer = {"error": str(error)}
    with os.fdopen(request["answer"], "w", encoding="utf-8") as file:
        json.dump(answer, file)


def _die_with(parent: int) -> None:
    """Asks Linux to kill this process when its parent ends: a killed export must not go on building."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent process is gone")


def last_line(log: Path) -> str:
    """The last line of a log that speaks of trouble, else its last line; printable characters only."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        text = file.read().decode("utf-8", errors="replace")
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    chosen = next((line for line in reversed(lines) if TROUBLE.search(line)), lines[-1] if lines else "")
    return chosen[:LONGEST]


def _understand(code: int, answer: bytes, what: str, log: Path) -> dict[str, Any]:
    """The child's result, or one line about what became of it."""
    if code:
        raise UserError(_line(what, f"{_death(code)}: {last_line(log) or 'it printed nothing'}", log))
    try:
        said = json.loads(answer)
    except ValueError:
        raise UserError(_line(what, "the child process left no answer", log)) from None
    if "error" in said:
        raise UserError(_line(what, said["error"], log))
    if not isinstance(said["result"], dict):
        raise UserError(_line(what, f"the child process answered nonsense: {said['result']!r}", log))
    return {**said["result"], "peak_mib": said["peak_mib"]}


def _line(what: str, reason: str, log: Path) -> str:
    return f"{what} failed: {reason} (log: {log})"


def _death(code: int) -> str:
    """What an exit status means, in words."""
    if code > 0:
        return f"the child process exited with {code}"
    name = signal.Signals(-code).name
    return f"the child process died of {name}" + (", out of memory?" if name == "SIGKILL" else "")


def _peak_mib() -> int:
    """Peak resident memory of this process; ru_maxrss alone would start at the parent's peak on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
        if found:
            return int(found[1]) // 1024
    if sys.platform == "win32":
        return 0  # not known
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 1024)  # macOS counts bytes, others KiB
