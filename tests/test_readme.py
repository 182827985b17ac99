"""The README's commands do what it says, in the order in which it gives them."""

import re
import subprocess
import tomllib

import pytest

from engines.ceiling import ceiling
from engines.flops import Geometry
from engines.gpus import GPUS
from engines.registry import names
from exporter import demo
from tests.documents import ROOT, blocks, commands, ran, read

INSTALLS = ("pip ", "pytest")  # what a test must not do to the environment it runs in: .ci/run does it


def rows(text, heading):
    """The cells of the table behind a heading."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return cells[2:]


@pytest.fixture(scope="module")
def said(tmp_path_factory, demo_bundle):
    """Every command of the README, run in one folder with the checkout's pictures, and what it printed."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "exporter").symlink_to(ROOT / "exporter")
    found = {}
    for command, shown in commands("README.md"):
        rest = " && ".join(piece for piece in command.split(" && ") if not piece.startswith(INSTALLS))
        if rest:
            found[rest] = ran(rest, desk, shown)
    return found


def test_every_command_works(said):
    assert len(said) >= 6
    assert "tp-export --method fastervlm --keep 64" in said


def test_the_export_prints_the_table_that_is_shown(said):
    printed = said["tp-export --method fastervlm --keep 64"].splitlines()
    (table,) = blocks("README.md", "text")
    assert [line for line in table.text.splitlines() if line not in printed] == []
    assert any("parity pass" in line for line in printed)


def test_ci_runs_the_two_commands_of_the_first_screen():
    ran_by_ci = re.findall(r'^step "(.*)"$', read(".ci/run"), re.MULTILINE)
    first, second = (command for command, _ in commands("README.md")[:2])
    assert second in ran_by_ci
    install, export = first.split(" && ")
    assert ran_by_ci.index(install) < ran_by_ci.index(export)
    installs = {piece for c, _ in commands("README.md") for piece in c.split(" && ") if piece.startswith(INSTALLS)}
    assert installs == {install, *second.split(" && ")}


def test_ci_is_sound_and_runs_as_it_stands():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_first_screen_is_one_screen():
    top = read("README.md").splitlines()[:30]
    assert sum(line.startswith("```sh") for line in top) == 2
    assert any("docs/preview.png" in line for line in top)
    assert (ROOT / "docs/preview.png").read_bytes().startswith(b"\x89PNG")


def test_every_dependency_is_explained():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    tools = {"test", "dev"}  # what developers need is said in one sentence
    sources = {"tp-export": project["dependencies"], **{name: extras[name] for name in extras.keys() - tools}}
    declared = {(re.match(r"[\w-]+", text)[0], source) for source, texts in sources.items() for text in texts}
    table = rows(read("README.md"), "What gets installed, and why")
    said = {(name, source.strip("`")) for row in table for name in named(row[0]) for source in row[1].split(", ")}
    assert said == {pair for pair in declared if pair[0] != "tp-export"}
    assert all(row[2] for row in table)
    assert all(f"`{extra}`" in read("README.md") for extra in extras)


def named(cell):
    return re.findall(r"`([\w-]+)`", cell)


def test_every_target_and_builtin_model_is_listed():
    targets = {row[0].strip("`").partition(":")[0] for row in rows(read("README.md"), "Targets and precision")}
    assert targets == {*names(), "auto"}
    assert set(demo.NAMES) < {row[0].strip("`") for row in rows(read("README.md"), "Other models")}


def test_the_ceiling_is_what_the_library_computes():
    projector = 2.0 * 64 * (1024 * 4096 + 4096**2)
    llava = Geometry(32, 4096, 4096, 11008, 32064, 23, 1024, 4096, 577, projector_flops=projector)
    text = read("README.md")
    for row in rows(text, "The ceiling"):
        found = ceiling(llava, 576, 64, text=40, gpu=row[0].strip("`"))
        assert row[1:] == [f"x{v:.2f}" for v in (found.prefill_speedup, found.ttft_speedup, found.total_speedup(64))]
        assert f"{found.flop_ratio:.2f} times its FLOPs" in text
    assert {row[0].strip("`") for row in rows(text, "The ceiling")} <= GPUS.keys()


def test_links_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))):
        for target in re.findall(r"\]\(([^)\s]+)\)", read(name)):
            if target.startswith(("https://", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            assert file.is_file(), f"{name}: {target}"
            assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}"


def anchors(text):
    """How GitHub names the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
