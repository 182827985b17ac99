"""What a long run says while it works: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LARGE = 10**9  # bytes whose way is worth watching
LOGGED_S, SHOWN_S = 30.0, 0.1  # between two lines of a log, between two looks of a bar


@dataclass
class Step:
    """One stage of work; `note` appears behind its time."""

    note: str = ""
    say: Callable[[str], None] = lambda _: None
    times: int = 10  # that bytes on their way are mentioned
    told: int = 0
    pause_s: float = LOGGED_S  # between two words of progress
    last_s: float = field(default_factory=time.monotonic)

    def progress(self, words: str) -> None:
        """What a builder is doing now; most of it is passed over."""
        if (now := time.monotonic()) - self.last_s >= self.pause_s:
            self.last_s = now
            self.say(words)

    def tell(self, total: int, before: int, done: int) -> None:
        """Of `total` bytes, `before` and now `done` of the next file are there."""
        part = self.times * (before + done) // max(total, 1)
        if total > LARGE and part > self.told:
            self.told = part
            self.say(f"{(before + done) / 1e9:.1f} of {total / 1e9:.1f} GB")


@dataclass
class Reporter:
    """Counts `total` stages and shows the current one."""

    console: Console
    total: int
    done: int = 0
    times: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bar: Progress | None = None
        if self.console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=self.total)

    def __enter__(self) -> Reporter:
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """One stage: named while it runs, timed when it is done."""
        start, often = time.perf_counter(), (100, SHOWN_S) if self._bar else (10, LOGGED_S)
        step = Step(say=lambda text: self._show(what, text), times=often[0], pause_s=often[1])
        self._show(what)
        yield step
        self.done, seconds = self.done + 1, time.perf_counter() - start
        self.times[what] = seconds
        note = f" ({step.note})" if step.note else ""
        line = f"[{self.done:2}/{self.total}] {what}: {seconds:.1f} s{note}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if self._bar:
            self._bar.advance(self._task)

    def _show(self, what: str, detail: str = "") -> None:
        """On a terminal in the bar; a log gets a line for the detail, none for the beginning."""
        if self._bar:
            self._bar.update(self._task, description=f"{what} {detail}".strip())
        elif detail:
            self.console.print(f"        {what}: {detail}", markup=False, highlight=False)
