"""How far a build is: TensorRT's phases, one within another, as one share of the whole."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engines.trt.native import Native

EVERY_S = 0.2


@dataclass
class Phase:
    """One phase: its name, the one that it is a step of, its steps, and how many of them are done."""

    name: str
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The phases that are under way; threads may report at the same time."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._lock = tell, threading.Lock()
        self._open: dict[str, Phase] = {}
        self._share, self._told, self._when = 0.0, "", -EVERY_S

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase began; of two of one name, which several threads may have, the later one counts."""
        with self._lock:
            self._open[name] = Phase(name, parent, max(steps, 1))
            self._say(self._open[name])

    def step(self, name: str, step: int) -> None:
        """Its step number `step`, from 0, is done."""
        with self._lock:
            if phase := self._open.get(name):
                phase.done = min(step + 1, phase.steps)
                self._say(phase)

    def finish(self, name: str) -> None:
        """It is over."""
        with self._lock:
            self._open.pop(name, None)

    def _say(self, phase: Phase) -> None:
        """A few times a second: '58 %, timing tactics 2 of 3'; the share never falls."""
        now, self._share = time.monotonic(), max(self._share, self._reached())
        text = f"{self._share:.0%}, {phase.name.lower()} {phase.done} of {phase.steps}".replace("%", " %", 1)
        if now - self._when >= EVERY_S and text != self._told:
            self._told, self._when = text, now
            self._tell(text)

    def _reached(self) -> float:
        """The share of the outermost phase: the steps done, and of the step under way what its own phase has done."""
        share, phase = 0.0, next((each for each in self._open.values() if each.parent not in self._open), None)
        size = 1.0
        while phase:
            size /= phase.steps
            share += size * phase.done
            name = phase.name
            within = (each for each in self._open.values() if each.parent == name and each.name != name)
            phase = next(within, None) if phase.done < phase.steps else None
        return min(share, 1.0)


def monitor(trt: Native, tell: Callable[[str], None]) -> Native:
    """A monitor for a builder's configuration; it must outlive the build."""
    phases = Phases(tell)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
