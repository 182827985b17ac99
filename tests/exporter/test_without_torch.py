"""A machine that only builds and runs bundles: commands that must work where nothing that exports is installed."""

import json
import os
import shutil
import subprocess
import sys

import pytest

# what the extra `export` brings; importing one of them is a mistake here
PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"torch", "transformers", "onnxscript", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from exporter.cli import main
main()
"""


def run(*words):
    command = [sys.executable, "-P", "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)


def works(*words):
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundle(demo_bundle, tmp_path_factory):
    return shutil.copytree(demo_bundle, tmp_path_factory.mktemp("light") / "bundle")


@pytest.mark.parametrize("words", [["check"], ["inspect"], ["inspect", "--passes"]])
def test_bundles_are_read(words, bundle):
    assert works(*words, bundle)


def test_bundles_run(bundle):
    picture = bundle / "parity/shapes-1.png"
    assert works("run", bundle, "--image", picture, "--prompt", "what color is the star ?") == "yellow\n"


@pytest.mark.parametrize("target", ["ort-cpu", "ov-cpu", "trt-rtx:sm89"])
def test_engines_are_built(target, bundle):
    label = target.replace(":", "-")
    contract = json.loads((bundle / "bundle.json").read_text())
    contract["engines"].pop(label, None)
    works("build", bundle, "--target", target, "--max-batch", 2)
    entry = json.loads((bundle / "bundle.json").read_text())["engines"][label]
    assert entry["batch"].keys() == contract["parts"].keys()
    assert set(entry["batch"].values()) == {2}


def test_doctor_says_what_can_be_done_and_finds_nothing_wrong():
    [line] = [line for line in works("doctor").splitlines() if "can build for" in line]
    assert "ort-cpu, ov-cpu, trt-rtx" in line


@pytest.mark.parametrize(
    "words",
    [["--method", "fastervlm", "--keep", "64"], ["methods"], ["graft", "x.onnx", "--method", "a", "--keep", "1"]],
)
def test_what_exports_says_in_one_line_what_to_install(words):
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("not installed here: pip install 'tp-export[export]'\n")
