"""What CONTRIBUTING.md shows is true: its example method works as soon as its file is there."""

import importlib
import json
import re
import sys

import pytest
from rich.console import Console
from safetensors.numpy import load_file

from exporter import methods
from exporter.catalogue import describe
from exporter.export import export
from exporter.recipe import Recipe
from exporter.registry import method_names
from tests.documents import ROOT, blocks, commands, read

METHOD, TEST = "exporter/methods/norm.py", "tests/exporter/methods/test_norm.py"


def shown(path):
    """The code block that begins with this path."""
    (found,) = [b.text for b in blocks("CONTRIBUTING.md", "python") if b.text.startswith(f"# {path}\n")]
    return found


@pytest.fixture
def dropped_in(tmp_path, monkeypatch):
    """A methods folder that holds the example, beside ours."""
    (tmp_path / "norm.py").write_text(shown(METHOD), encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield
    del sys.modules["exporter.methods.norm"]
    del methods.norm


def test_the_example_method_exports_and_is_faithful(dropped_in, tmp_path, demo_bundle):
    assert "norm" in method_names()
    assert "Rank patches by the Euclidean norm" in describe("norm")
    ((command, _),) = [c for c in commands("CONTRIBUTING.md") if c[0].startswith("tp-export")]
    assert command == "tp-export --method norm --keep 64 --target ort-cpu"
    recipe = Recipe(method="norm", keep="64", targets=("ort-cpu",))
    outcome = export(recipe, tmp_path / "norm", Console(quiet=True))
    assert outcome.parity["verdict"] == "pass"
    indices = [row for row in outcome.parity["rows"] if row["level"] == "indices"]
    assert [row["value"] for row in indices] == ["64 of 64"]
    told = json.loads((tmp_path / "norm/bundle.json").read_text(encoding="utf-8"))
    assert told["plan"][0]["keep"] == 64
    kept = [load_file(b / "parity/reference.fp32.safetensors")["0/free_kept"] for b in (tmp_path / "norm", demo_bundle)]
    assert kept[0].tolist() != kept[1].tolist()  # it is another method than the one that comes with us


def test_the_example_test_passes(dropped_in):
    space = {}
    exec(compile(shown(TEST), TEST, "exec"), space)
    tests = [value for name, value in space.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_its_checks_are_those_of_ci():
    steps = re.findall(r'^step "(.*)"$', read(".ci/run"), re.MULTILINE)
    pieces = {piece for step in steps for piece in step.split(" && ")} | {".ci/run"}
    said = {command for command, _ in commands("CONTRIBUTING.md") if not command.startswith("tp-export")}
    assert said <= pieces
    assert {"pytest", "ruff check", "ruff format --check", "mypy"} <= said


def test_the_places_it_names_exist():
    named = re.findall(r"`((?:exporter|engines|graph_passes|tools|tests|docs)/[\w./]*)`", read("CONTRIBUTING.md"))
    assert len(named) > 10
    assert [place for place in named if "NAME" not in place and not (ROOT / place).exists()] == []
