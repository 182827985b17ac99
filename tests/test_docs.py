"""What docs/ says is so: help texts, commands, the contract's tensors, and the runtime that is printed there."""

import importlib
import json
import re
import subprocess
import sys

import pytest
from rich.console import Console

from engines.forms import view_size
from exporter import methods
from exporter.cli import tp_export
from exporter.export import export
from exporter.recipe import Recipe
from tests.documents import ROOT, blocks, commands, ran, read
from tools.update_docs import METHODS, documented, methods_page, updated

# Everything that a cut decoder can add: two layer groups, carried values, a key bias, an output of the method's own.
SPLITTER = """
from exporter.reducer import Reducer, Selection, Stage
from exporter.select import top_k


class METHOD(Reducer):
    title = paper = "a toy"

    def plan(self, shape, budget):
        keep = budget.count(shape.patches)
        return Stage("tower", shape.tower_last, keep=keep), Stage("decoder", 1, keep=keep // 2)

    def select(self, taps, stage):
        scores = taps.span_of(taps.hidden(stage.layer).float().square().sum(-1))
        kept = top_k(scores, stage.keep)
        values = scores.gather(-1, kept)
        if stage.stack == "tower":
            return Selection(kept, carry={"NAME": values}, scores=scores)
        bias = taps.carry["NAME"].gather(-1, kept).sign() * values / values.amax(-1, keepdim=True)
        return Selection(kept, key_bias=bias, scores=scores)
"""


@pytest.fixture
def desk(tmp_path, demo_bundle):
    """A folder with the bundle under the name that the documents give it."""
    (tmp_path / "demo-fastervlm-64").symlink_to(demo_bundle)
    return tmp_path


@pytest.fixture(scope="module")
def split_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    (folder / "splitter.py").write_text(SPLITTER, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
        importlib.invalidate_caches()
        recipe = Recipe(method="splitter", keep="30", targets=("ort-cpu",), images=2)
        export(recipe, folder / "bundle", Console(quiet=True))
    del sys.modules["exporter.methods.splitter"]
    return folder / "bundle"


def test_help_texts_are_those_of_the_commands(monkeypatch):
    monkeypatch.setattr(methods, "__path__", methods.__path__[:1])  # ours alone, not what other tests have added
    page = read("docs/cli.md")
    assert updated(page) == page, "run: python tools/update_docs.py"
    assert METHODS.read_text(encoding="utf-8") == methods_page(), "run: python tools/update_docs.py"
    assert sorted(documented(page)) == sorted(["tp-export", *(f"tp-export {name}" for name in tp_export.commands)])


def test_a_stale_page_is_noticed_and_mended():
    page = read("docs/cli.md")
    stale = page.replace("Longest answer.", "Shortest answer.").replace("## tp-export doctor", "## gone")
    stale = re.sub(r"^Usage: tp-export doctor.*?(?=```)", "", stale, flags=re.MULTILINE | re.DOTALL)
    assert "Longest answer." in updated(stale)
    assert sorted(documented(updated(stale))) == sorted(documented(page))


@pytest.mark.parametrize("page", sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
def test_every_command_does_what_it_shows(page, desk):
    for block in blocks(page, "toml"):
        (desk / block.text.split()[1]).write_text(block.text)  # its first line is a comment that names it
    for command, shown in commands(page):
        ran(command, desk, shown)


def test_the_printed_runtime_answers(desk):
    (program,), shown = blocks("docs/bundle.md", "python"), blocks("docs/bundle.md", "text")[-1]
    assert not re.search(r"^(from|import) (exporter|engines|torch)", program.text, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-P", "-c", program.text], cwd=desk, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, shown.text), done.stderr


def test_top_level_keys_are_those_of_the_contract(demo_bundle):
    told = json.loads((demo_bundle / "bundle.json").read_text(encoding="utf-8"))
    section = read("docs/bundle.md").split("In `bundle.json`:")[1].split("\n## ")[0]
    keys = {key for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert keys == told.keys() - {"format", "tp_export", "created"}
    for place in re.findall(r"`(model|recipe|limits)\.(\w+)`", read("docs/bundle.md")):
        assert place[1] in told[place[0]]


def test_keys_of_a_form_are_those_of_the_contract(demo_bundle):
    told = json.loads((demo_bundle / "bundle.json").read_text(encoding="utf-8"))
    section = read("docs/bundle.md").split("\n## Forms of picture")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == told["pictures"][0].keys()


def test_keys_of_an_engine_are_those_of_the_contract(demo_bundle):
    told = json.loads((demo_bundle / "bundle.json").read_text(encoding="utf-8"))
    section = read("docs/bundle.md").split("\n## Engines")[1].split("\n## ")[0]
    keys = {key for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert all(entry.keys() == keys for entry in told["engines"].values())


@pytest.mark.parametrize("part", ["vision", "embed", "decoder"])
def test_tensors_of_a_decoder_in_one_part(part, demo_bundle):
    compare(demo_bundle, part)


@pytest.mark.parametrize("part", ["prefill", "decode"])
def test_tensors_of_a_decoder_in_two_parts(part, split_bundle):
    compare(split_bundle, part)


def compare(bundle, part):
    """Every row of a part's table, written out for every layer and group, against bundle.json."""
    told = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    wanted = {
        (entry["name"], way): (entry["dtype"], entry["shape"])
        for way, side in (("in", "inputs"), ("out", "outputs"))
        for entry in told["parts"][part][side]
    }
    text = read("docs/bundle.md")
    section = re.split(rf"^(?:## {part}:|\*\*{part}\*\*)", text, flags=re.MULTILINE)[1].split("\n\n|", 1)[1]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in section.split("\n\n")[0].splitlines()[2:]]
    found = {key: value for row in rows for key, value in written_out(row, told).items()}
    assert found == wanted


def written_out(row, told):
    """One row of a table as the tensors it stands for."""
    name, way, dtype, shape = row[0].strip("`"), *row[1:4]
    found = {}
    for g, group in enumerate(told["groups"]):
        for layer in range(*group["layers"]):
            full = name.replace("{l}", str(layer)).replace("{g}", str(g))
            if name != "kept_indices.{g}" or g:
                axes = shape.replace("{g}", str(g)).split(", ")
                found[full, way] = (dtype, [size(axis, told, group) for axis in axes])
    return found


def size(axis, told, group):
    """A symbol as its number; words stay."""
    model = told["model"]
    form = told["pictures"][0]
    height, width = view_size(form["preprocess"])
    symbols = {
        "K": form["tokens"], "D": model["hidden_size"], "V": model["vocab_size"], "H": height, "W": width,
        "h": model["kv_heads"], "d": model["head_dim"], "I": told["limits"]["images"], "G": len(told["groups"]),
        "N": group["tokens"],
    }  # fmt: skip
    return symbols.get(axis, int(axis) if axis.isdecimal() else axis)
