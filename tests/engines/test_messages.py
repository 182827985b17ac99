import time
from pathlib import Path

import pytest

from engines import messages
from engines.child import run_in_child
from engines.errors import UserError

HELPER = """
import os, sys, time
from engines.messages import tell, _pipes

def count():
    for number in range(3): tell(f"step {number}\\nof 3")
    return {}
def flood():
    start = time.monotonic()
    for number in range(200_000): tell("x" * 150 + str(number))
    return {"seconds": time.monotonic() - start}
def broken():
    tell("whole"); os.write(_pipes[0], b"half a li"); os.kill(os.getpid(), 9)
def leave_one_behind():
    if os.fork(): return {}
    os.setsid(); time.sleep(30); os._exit(0)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "talking.py").write_text(HELPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, tell=None: run_in_child(f"talking:{name}", {}, "talking", tmp_path / "log", tell)


def test_lines_arrive_in_order(run):
    said = []
    run("count", said.append)
    assert said == ["step 0 of 3", "step 1 of 3", "step 2 of 3"]


def test_no_one_need_listen(run):
    assert run("count")["peak_mib"] > 1


def test_a_flood_holds_nobody_up(run):
    said = []

    def slow(text):
        said.append(text)
        time.sleep(0.01)

    found = run("flood", slow)
    assert found["seconds"] < 20
    assert 0 < len(said) < 200_000
    assert all(text.startswith("x" * 150) for text in said)


def test_what_broke_off_is_dropped(run):
    said = []
    with pytest.raises(UserError, match="died of SIGKILL, out of memory"):
        run("broken", said.append)
    assert said == ["whole"]


def test_a_process_left_behind_holds_nobody_up(run):
    start = time.monotonic()
    run("leave_one_behind", print)
    assert time.monotonic() - start < 25


def test_a_listener_that_fails_hurts_nobody(run, monkeypatch):
    monkeypatch.setattr("threading.excepthook", lambda _: None)

    def fail(text):
        raise ValueError(text)

    assert run("flood", fail)["seconds"] < 20


def test_descriptors_are_given_back(run):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        run("count", print)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_without_a_pipe_nothing_happens(monkeypatch):
    monkeypatch.setattr(messages, "_pipes", [])
    messages.tell("to no one")
