"""Exports that are killed or interrupted at any moment: the old bundle or the new one, never half of either."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from engines.bundle import open_bundle, verify
from tests.exporter.mistakes import EXPORT

COMMAND = (sys.executable, "-P", "-c", "from exporter.cli import main; main()", *EXPORT, "--force", "-o")
INTERRUPTED = "tp-export: interrupted; what was there before is untouched\n"


def start(out, until, **environment):
    """An export that has just finished some of its ten steps, in a process group of its own."""
    export = subprocess.Popen(
        [*COMMAND, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    for _ in range(until):
        assert export.stdout.readline().startswith("[")
    return export


def kill(out, until, **environment):
    """Kill one at a random moment after a step; builders in other processes must follow by themselves."""
    export = start(out, until, **environment)
    time.sleep(random.uniform(0, 0.4 if until else 3))
    export.kill()
    export.communicate()


def finish(out):
    done = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    verify(open_bundle(out))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.fixture
def out(demo_bundle, tmp_path):  # the other bundle's graphs are in the cache now
    return tmp_path / "bundle"


def test_a_killed_export_leaves_the_old_bundle_or_the_new_one(out):
    for until in (0, 1, 6):
        kill(out, until)
        assert not out.exists()
    finish(out)
    for until in (8, 10):
        kill(out, until)
        verify(open_bundle(out))
    finish(out)


def test_a_killed_trace_leaves_nothing_that_stays(out, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    for _ in range(2):
        kill(out, 1, TP_EXPORT_CACHE=str(cache))
        assert not out.exists()
    assert len(list((cache / "parts").glob(".new-*"))) <= 1  # the second run removed what the first one left


@pytest.mark.parametrize(("number", "until"), [(signal.SIGTERM, 1), (signal.SIGINT, 7), (signal.SIGHUP, 8)])
def test_an_interrupted_export_ends_in_one_line(out, number, until):
    export = start(out, until)
    time.sleep(random.uniform(0, 0.3))
    export.send_signal(number)
    _, said = export.communicate(timeout=60)
    assert (export.returncode, said) == (130, INTERRUPTED)
    assert not list(out.parent.iterdir())


def test_an_interrupted_trace_leaves_nothing(out, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    export = start(out, 1, TP_EXPORT_CACHE=str(cache))
    time.sleep(random.uniform(0.5, 2))
    export.send_signal(signal.SIGTERM)
    assert export.communicate(timeout=60)[1] == INTERRUPTED
    assert not list(out.parent.iterdir())
    assert not list((cache / "parts").glob(".new-*"))


SWALLOWED = """
import os, signal
from exporter.last_words import last_words
class Mute:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
with last_words(debug=False):
    Mute()
    signal.pause()
"""


def test_a_signal_in_a_destructor_is_not_lost():
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, INTERRUPTED)


def test_a_hangup_is_ignored_under_nohup():
    code = (
        "from exporter.last_words import last_words\nwith last_words(debug=False):\n signal.raise_signal(signal.SIGHUP)"
    )
    command = ["nohup", sys.executable, "-c", f"import signal; {code}"]
    assert subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


def test_an_interrupt_that_native_code_made_another_error_of_is_one(tmp_path):
    program = (
        "import signal\nfrom exporter.last_words import last_words\n"
        "with last_words(debug=False):\n"
        " try:\n  signal.raise_signal(signal.SIGTERM)\n"
        " except BaseException:\n  raise SystemError('returned a result with an exception set') from None"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, INTERRUPTED)
