"""`tp-export build --matrix` as a user runs it: bundles with engines, nothing twice, and an interrupt at any moment."""

import os
import signal
import subprocess
import sys
import time

import pytest

from engines.bundle import open_bundle, verify
from tests.exporter.mistakes import run

FILE = """
models = ["demo"]
methods = ["fastervlm"]
keeps = [64, 5000]
targets = ["ort-cpu", "trt-rtx:sm89"]

[export]
parity = "none"

[build]
max_batch = 1
"""
COMMAND = (sys.executable, "-P", "-c", "from exporter.cli import main; main()")
NAME = "demo-fastervlm-64"


@pytest.fixture
def words(tmp_path, demo_bundle):  # whose graphs are in the cache now
    (tmp_path / "fleet.toml").write_text(FILE)
    return ("build", "--matrix", str(tmp_path / "fleet.toml"), "-o", str(tmp_path / "out"), "--jobs", "2")


def outcomes(said):
    """Third cells of the table's rows."""
    return [line.split("│")[3].strip() for line in said.splitlines() if line.startswith("│")]


def test_what_is_missing_is_built_and_what_is_there_is_not(words, tmp_path):
    code, said, error = run(*words)
    assert (code, error) == (0, "")
    assert sorted(outcomes(said)) == ["built", "built", "refused", "refused"]
    assert "demo-fastervlm-5000, ort-cpu: refused: " in said
    bundle = open_bundle(tmp_path / "out" / NAME)
    verify(bundle)
    assert set(bundle.contract["engines"]) == {"ort-cpu", "trt-rtx-sm89"}
    code, said, _ = run(*words)
    assert (code, sorted(outcomes(said))) == (0, ["refused"] * 2 + ["reused"] * 2)
    (tmp_path / "fleet.toml").write_text(FILE.replace("[build]", "[build]\nlevel = 1"))
    code, said, _ = run(*words)
    assert (code, sorted(outcomes(said))) == (0, ["built"] + ["refused"] * 2 + ["reused"])


@pytest.mark.parametrize(("until", "number"), [(0, signal.SIGTERM), (2, signal.SIGINT)])
def test_an_interrupt_leaves_whole_bundles_only(words, tmp_path, until, number):
    fleet = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TP_EXPORT_CACHE": str(tmp_path / "cache")} if until == 0 else None,
    )  # fmt: skip
    for _ in range(until):
        assert fleet.stdout.readline().startswith("[")
    time.sleep(3 if until == 0 else 0.5)
    fleet.send_signal(number)
    _, error = fleet.communicate(timeout=60)
    assert (fleet.returncode, error) == (130, "tp-export: interrupted; what was there before is untouched\n")
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ([".logs", NAME] if until else [".logs"])
    if until:
        verify(open_bundle(tmp_path / "out" / NAME))
        assert not list((tmp_path / "out" / NAME).glob(".*"))
    assert not alive(fleet.pid)


def alive(group):
    """Processes of a process group that still run."""
    done = subprocess.run(["ps", "-o", "pid=,stat=", "-g", str(group)], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "Z" not in line.split()[1]]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "give a bundle and its --target, or --matrix FILE.toml and -o DIR"),
        (("--matrix", "a.toml"), "--matrix: say with -o which directory gets the bundles"),
        (
            ("--matrix", "a.toml", "-o", "x", "--level", "3"),
            "--matrix: what is built stands in a.toml; leave out --level",
        ),
        (
            ("x", "--target", "trt-rtx", "--jobs", "3"),
            "give a bundle and its --target, or --matrix FILE.toml and -o DIR",
        ),
        (("--matrix", "a.toml", "-o", "x"), "a.toml: No such file or directory"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(more, says):
    assert run("build", *more) == (2, "", f"tp-export: {says}\n")
