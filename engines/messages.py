"""Lines that a child process says while it works: the newest matter, and saying one never waits."""

import os
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

LONGEST = 200  # characters, which a pipe takes as a whole or not at all
PATIENCE_S = 2  # for the last lines; a process that the child left behind may hold the pipe for ever
_pipes: list[int] = []  # of this process, if it is a child that someone listens to


class Ear:
    """A pipe whose lines `tell` gets on a thread until no one holds its other end.

    Attributes:
        pipe: the end for the child; `close` it here once the child has it.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        source, self.pipe = os.pipe()
        self._listener = Thread(target=_listen, args=(source, tell), daemon=True)
        self._listener.start()

    def close(self) -> None:
        """Leaves the other end to the child."""
        os.close(self.pipe)

    def finish(self) -> None:
        """Waits for the last lines of a child that has ended."""
        self._listener.join(PATIENCE_S)


def tell_through(pipe: int | None) -> None:
    """Makes `tell` write into this pipe, in the child."""
    if pipe is not None:
        os.set_blocking(pipe, False)
        _pipes[:] = [pipe]


def tell(text: str) -> None:
    """Says one line to the parent; does nothing if no one listens, or no one did for so long that the pipe is full."""
    line = " ".join(text.split())[:LONGEST] + "\n"
    for pipe in _pipes:
        with suppress(OSError):
            os.write(pipe, line.encode())


def _listen(source: int, tell: Callable[[str], None]) -> None:
    """Passes whole lines on; what broke off in the middle of one is dropped, and so is all after `tell` failed."""
    with open(source, "rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                tell(line.decode("utf-8", errors="replace").rstrip("\n"))
