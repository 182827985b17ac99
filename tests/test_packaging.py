"""What is built is what is meant: the four packages with their data, and a command that starts anywhere, fast."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.documents import ROOT, ran, shell

PACKAGES = ("exporter", "graph_passes", "engines", "plugins")
DATA = ("data/demo/model.safetensors", "data/pictures/pictures.json", "data/llava-1.5/config.json", "py.typed")
HEAVY = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tensorrt_rtx", "numpy", "PIL")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist of the checkout, the wheel built from it, and a wheel built straight from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    for name, what in (("both", []), ("straight", ["--wheel"])):
        command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", folder / name, ROOT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def wheel(folder):
    """The files of the one wheel in a folder, by name."""
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources():
    """Every file of the packages that is not made by Python."""
    found = [file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()]
    return {file.relative_to(ROOT).as_posix() for file in found if "__pycache__" not in file.parts}


def test_the_wheel_holds_the_packages_and_all_their_data_and_nothing_else(built):
    files = wheel(built / "both")
    tops = {name.split("/")[0] for name in files}
    (info,) = [top for top in tops if top.endswith(".dist-info")]
    assert tops == {*PACKAGES, info}
    assert {name for name in files if not name.startswith(info)} == sources()
    assert {f"exporter/{name}" for name in DATA} <= files.keys()
    assert {"engines/templates/report.html", *(f"{package}/py.typed" for package in PACKAGES)} <= files.keys()
    assert f"{info}/licenses/LICENSE" in files
    assert b"tp-export = exporter.cli:main" in files[f"{info}/entry_points.txt"]


def test_the_wheel_of_the_sdist_is_that_of_the_checkout(built):
    assert wheel(built / "both") == wheel(built / "straight")


def test_the_sdist_holds_what_a_build_needs_and_no_more(built):
    (path,) = (built / "both").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames()}
    own = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {name for name in inside if not name.startswith(tuple(f"{p}/" for p in PACKAGES))} <= own
    assert sources() <= inside


def test_the_command_starts_beside_strangers_of_our_names(tmp_path, demo_bundle):
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a stranger')")
        assert shell(f"{sys.executable} -c 'import {name}'", tmp_path).returncode == 1
    assert "FasterVLM" in ran("tp-export methods", tmp_path)
    assert "Verdict: pass." in ran(f"tp-export check {demo_bundle}", tmp_path)


@pytest.mark.parametrize("words", ["--help", "run --help", "--version"])
def test_help_needs_no_heavy_library(words, tmp_path):
    command = Path(sys.executable).with_name("tp-export")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", command, *words.split()],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"click", "exporter.cli"} <= imported
    assert not {name for name in imported if name.split(".")[0] in HEAVY}
