import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.child import run_in_child
from engines.errors import UserError

HELPER = """
import ctypes, os, sys
from engines.errors import UserError

def good(text):
    print('{"result": "garbage"}'); print("to stderr", file=sys.stderr); os.write(1, b"\\xff\\xfe raw\\n")
    return {"text": text}
def abort(): os.write(2, b"terminate called: no kernel\\n"); os.abort()
def segfault(): ctypes.string_at(0)
def kill(): os.kill(os.getpid(), 9)
def leave(): os._exit(0)
def stop(): sys.exit(3)
def fail(): raise ValueError("two\\nlines")
def refuse(): raise UserError("node 7 is not supported")
def text(): return "text"
def thing(): return {"thing": object()}
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Where the child logs; the helper module is importable in children."""
    (tmp_path / "child_helper.py").write_text(HELPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "logs" / "child.log"


def test_returns_the_dict_whatever_is_printed(log):
    found = run_in_child("child_helper:good", {"text": "ä"}, "building 'x'", log)
    assert found["text"] == "ä"
    assert 1 < found["peak_mib"] < 1000
    assert b"raw" in log.read_bytes()
    assert b"to stderr" in log.read_bytes()


@pytest.mark.parametrize(
    ("function", "match"),
    [
        ("abort", "died of SIGABRT: .*no kernel"),
        ("segfault", "died of SIGSEGV"),
        ("kill", "died of SIGKILL, out of memory"),
        ("leave", "left no answer"),
        ("stop", "exited with 3"),
        ("fail", "exited with 1: ValueError: two"),
        ("refuse", "failed: node 7 is not supported"),
        ("text", "answered nonsense: 'text'"),
        ("thing", "exited with 1: TypeError"),
        ("absent", "exited with 1: AttributeError"),
    ],
)
def test_every_death_is_one_line(log, function, match):
    with pytest.raises(UserError, match=match) as caught:
        run_in_child(f"child_helper:{function}", {}, "building 'decoder' for x (profile 1x3)", log)
    line = str(caught.value)
    assert line.startswith("building 'decoder' for x (profile 1x3) failed: ")
    assert line.endswith(f"(log: {log})")
    assert "\n" not in line


def test_a_folder_of_the_user_cannot_shadow_ours(log, tmp_path, monkeypatch):
    folder = tmp_path / "user"
    (folder / "engines").mkdir(parents=True)
    (folder / "engines/__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(folder)
    assert run_in_child("json:loads", {"s": '{"a": 1}'}, "x", log)["a"] == 1


def test_the_peak_is_the_childs_own(log):
    ballast = bytearray(os.urandom(1)) * (400 << 20)
    assert run_in_child("json:loads", {"s": "{}"}, "x", log)["peak_mib"] < 200
    assert len(ballast) == 400 << 20


def test_an_interrupt_kills_the_child(log):
    code = (
        f"from engines.child import run_in_child; from pathlib import Path; import sys\n"
        f"run_in_child('signal:pause', {{}}, 'waiting', Path({str(log)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-P", "-c", code], stderr=subprocess.PIPE)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not (pids := children.read_text().split()):
        time.sleep(0.02)
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert ends(int(pids[0]))


def ends(pid, within=10):
    """Whether a process is gone soon: on a loaded machine its last moments may outlive its parent's."""
    until = time.monotonic() + within
    while time.monotonic() < until and Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()
