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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.last_words import understood
from engines.messages import Ear, tell_through

Tell = Callable[[str], None]
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_in_child(
    function: str, kwargs: Mapping[str, Any], what: str, log: Path, tell: Tell | None = None, relief: str = ""
) -> dict[str, Any]:
    """Calls a function in a fresh interpreter and waits for it, however long it takes.

    A KeyboardInterrupt kills the child, and on Linux it dies with its parent in any case.

    Args:
        function: "package.module:name" of a function that takes and returns what JSON can hold.
        kwargs: its keyword arguments.
        what: begins the error line: which part is being built, for what, with which profiles.
        log: receives the child's stdout and stderr, and stays; its folder is made if missing.
        tell: takes, on a thread, what the child says with `engines.messages.tell` while it works.
        relief: what to do if the child needs more memory than there is.

    Returns:
        The function's own dict and "peak_mib": the child's peak resident memory in MiB.

    Raises:
        UserError: the child raised, exited, crashed, or returned something that is not a dict.
    """
    child = Child(function, kwargs, what, log, tell, relief)
    try:
        return child.result()
    finally:
        child.kill()


class Child:
    """The same, begun and not waited for; the thread that begins it must outlive it.

    The child gets its request as JSON on stdin and leaves its answer in a nameless file of its own, so that
    nothing a builder prints can be taken for the answer.
    """

    def __init__(
        self,
        function: str,
        kwargs: Mapping[str, Any],
        what: str,
        log: Path,
        tell: Tell | None = None,
        relief: str = "",
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.what, self.log, self.relief = what, log, relief
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115 - result() closes it
        self._ear = Ear(tell) if tell else None
        handles = {"answer": self._answer.fileno()} | ({"pipe": self._ear.pipe} if self._ear else {})
        request = {"function": function, "kwargs": dict(kwargs), "parent": os.getpid(), **handles}
        try:
            self._process = _begun(request, tuple(handles.values()), log)
        finally:
            if self._ear:
                self._ear.close()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.wait()

    def result(self) -> dict[str, Any]:
        """Waits for the end, once; as `run_in_child`."""
        code = self._process.wait()
        if self._ear:
            self._ear.finish()
        with self._answer:
            self._answer.seek(0)
            return understood(code, self._answer.read(), f"{self.what} failed", self.log, self.relief)


def _begun(request: Mapping[str, Any], handles: tuple[int, ...], log: Path) -> subprocess.Popen[bytes]:
    # -P and -c: the user's folder, which may hold an `engines` of its own, stays off the module path
    command = [sys.executable, "-P", "-c", "from engines.child import serve; serve()"]
    with tempfile.TemporaryFile() as asked, log.open("wb") as output:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        return subprocess.Popen(command, stdin=asked, stdout=output, stderr=subprocess.STDOUT, pass_fds=handles)


def serve() -> None:
    """Answers one request; runs in the child. Whatever is raised but a UserError ends up in the log."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    tell_through(request.get("pipe"))
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
