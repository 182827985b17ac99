import threading

import pytest

from engines.trt import progress
from engines.trt.progress import Phases


@pytest.fixture
def said(monkeypatch):
    """Everything that is told; no pauses."""
    monkeypatch.setattr(progress, "EVERY_S", 0)
    return []


def test_a_step_of_a_phase_is_as_large_as_the_phase_within_it(said):
    phases = Phases(said.append)
    phases.start("Building", None, 4)
    phases.step("Building", 0)
    phases.start("Optimizing graph", "Building", 2)
    phases.start("Timing", "Optimizing graph", 5)
    phases.step("Timing", 0)
    phases.finish("Timing")
    phases.step("Optimizing graph", 0)
    assert said == [
        "0 %, building 0 of 4",
        "25 %, building 1 of 4",
        "25 %, optimizing graph 0 of 2",
        "25 %, timing 0 of 5",
        "28 %, timing 1 of 5",
        "38 %, optimizing graph 1 of 2",
    ]


def test_the_share_never_falls(said):
    phases = Phases(said.append)
    phases.start("a", None, 2)
    phases.step("a", 0)
    phases.start("a", None, 4)
    phases.step("a", 0)
    assert [text.partition(",")[0] for text in said] == ["0 %", "50 %", "50 %", "50 %"]


def test_unknown_empty_and_overlong_phases_are_borne(said):
    phases = Phases(said.append)
    phases.step("never begun", 3)
    phases.finish("never begun")
    phases.start("empty", "gone", 0)
    phases.step("empty", 7)
    phases.start("itself", "itself", 2)
    phases.step("itself", 1)
    assert said[-1].startswith("100 %")


def test_it_speaks_a_few_times_a_second_only():
    said = []
    phases = Phases(said.append)
    phases.start("fast", None, 10**6)
    for step in range(10_000):
        phases.step("fast", step)
    assert 1 <= len(said) < 20


def test_threads_may_report_at_once(said):
    phases = Phases(said.append)
    phases.start("all", None, 8)

    def work(number):
        for step in range(200):
            phases.start(f"part {number}", "all", 200)
            phases.step(f"part {number}", step)
            phases.finish(f"part {number}")
        phases.step("all", number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    shares = [int(text.partition(" ")[0]) for text in said]
    assert shares == sorted(shares)
    assert max(shares) <= 100
