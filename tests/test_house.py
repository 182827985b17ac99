"""The rules of the house that a machine can check."""

import ast

import pytest

from tests.documents import ROOT

PACKAGES = ("exporter", "graph_passes", "engines", "plugins")
FOLDERS = (*PACKAGES, "benchmarks", "tools", "tests")
LONGEST = 300
LATER = "TO" + "DO"  # spelt so that this file does not hold it


def python_files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(source):
    """Top-level names of everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who needs whom"
            found.add(str(node.module).split(".")[0])
    return found


def test_imports_are_found_wherever_they_stand():
    source = "import os.path\ndef f():\n    import torch.nn as nn\n    from exporter.cli import main\n"
    assert imports(source) == {"os", "torch", "exporter"}


@pytest.mark.parametrize(
    ("package", "strangers"),
    [
        ("engines", {"exporter", "graph_passes", "torch", "transformers", "tests", "tools"}),
        ("graph_passes", {"exporter", "engines", "plugins", "torch", "transformers", "tests", "tools"}),
        ("plugins", {"exporter", "engines", "graph_passes", "torch", "transformers", "tests", "tools"}),
        ("exporter", {"tests", "tools"}),
    ],
)
def test_packages_import_only_whom_they_may(package, strangers):
    files = python_files(package)
    assert files
    found = {path.relative_to(ROOT).as_posix(): imports(path.read_text(encoding="utf-8")) for path in files}
    assert {name: names & strangers for name, names in found.items() if names & strangers} == {}


def test_methods_know_no_model():
    """A method is tensor maths: it sees taps, never a family or a part."""
    allowed = {"exporter.budget", "exporter.reducer", "exporter.scores", "exporter.select", "engines.errors"}
    near = ("exporter.methods", "exporter.maths")
    for path in python_files("exporter/methods"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = str(node.module) if isinstance(node, ast.ImportFrom) else ""
            if module.split(".")[0] in PACKAGES:
                assert module in allowed or module.startswith(near), f"{path.name} imports {module}"


def test_files_are_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*FOLDERS)}
    assert len(lengths) > 80
    assert {path.relative_to(ROOT).as_posix(): n for path, n in lengths.items() if n > LONGEST} == {}


def test_nothing_is_put_off():
    files = [*python_files(*FOLDERS), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / ".ci/run"]
    assert [path.name for path in files if LATER in path.read_text(encoding="utf-8")] == []


def test_every_package_is_typed():
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []


def test_every_module_says_what_it_is():
    silent = [p for p in python_files(*PACKAGES) if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert silent == []
