"""Builds that are killed at any moment, and builds side by side: the bundle is whole all the time."""

import signal
import subprocess
import sys

import pytest

from engines.bundle import open_bundle, verify
from engines.settings import Settings
from tests.exporter.adding.light_bundle import add, entry, whole

KILLED = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from tests.exporter.adding.light_bundle import add_toy
from engines.settings import Settings
from exporter import add_engines, build_engines, in_place

def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
def then_die(do): return lambda *args, **kwargs: (do(*args, **kwargs), die())

count = 0
def contract_and_die(number):
    def write(bundle, contract):
        global count
        count += 1
        return die() if count == number else real(bundle, contract)
    real = in_place.write_contract
    return write

moment, path, toys = sys.argv[1:]
toy = add_toy(Path(toys))
toy.legal = lambda _, loops: ("explicit_attention",)
where, name, what = {
    "surveying": (toy, "version", die),
    "building": (toy, "build", die),
    "taking": (build_engines, "place", then_die(build_engines.place)),
    "before all": (in_place, "write_contract", contract_and_die(1)),
    "removed": (in_place, "_move", die),
    "moved": (in_place, "_move", then_die(in_place._move)),
    "settled": (in_place, "_graphs", die),
    "writing": (Path, "replace", die),
    "written": (add_engines, "put", then_die(add_engines.put)),
}[moment]
setattr(where, name, what)
level = int(Path(path, "level").read_text())
add_engines.add_engines(Path(path), add_engines.Wish(("toy",), settings=Settings(level=level)), Console(quiet=True))
"""
MOMENTS = ["surveying", "building", "taking", "before all", "removed", "moved", "settled", "writing", "written"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("replaces", [False, True])
def test_a_kill_leaves_a_whole_bundle_that_a_second_build_completes(toy, path, tmp_path, moment, replaces):
    toy.legal = lambda _, loops: ("explicit_attention",)
    if replaces:
        add(path, settings=Settings(level=1))
    (path / "level").write_text("2")
    command = [sys.executable, "-c", KILLED, moment, str(path), str(tmp_path / "backends")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = open_bundle(path)
    verify(left)
    for label in left.contract["engines"]:
        assert entry(path, label)["settings"] == {"level": 2 if moment == "written" else 1}
    (path / "level").unlink()
    add(path, settings=Settings(level=2))
    assert entry(path)["settings"] == {"level": 2}
    assert whole(path)


def test_builds_side_by_side_lose_nothing(path, tmp_path):
    (tmp_path / "backends").mkdir()
    program = (
        "import sys\nfrom pathlib import Path\nfrom rich.console import Console\n"
        "from tests.exporter.adding.light_bundle import add_toy\nfrom exporter.add_engines import Wish, add_engines\n"
        "add_toy(Path(sys.argv[2]))\nadd_engines(Path(sys.argv[1]), Wish([sys.argv[3]]), Console(quiet=True))\n"
    )
    targets = ["toy:sm86", "toy:sm89", "toy:sm90"]
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "backends")]
    runs = [subprocess.Popen([*command, target], stderr=subprocess.PIPE, text=True) for target in targets]
    assert [(each.communicate(timeout=60)[1], each.returncode) for each in runs] == [("", 0)] * 3
    assert open_bundle(path).contract["engines"].keys() == {"toy-sm86", "toy-sm89", "toy-sm90"}
    assert whole(path)
