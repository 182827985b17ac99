"""The TOML file: every combination, what each table changes, and one line for whatever is wrong."""

import pytest

from engines.errors import UserError
from exporter.fleet.matrix import Goal
from exporter.fleet.reading import read_matrix

GOOD = """
models = ["demo", "demo:llava-1.5"]
methods = ["fastervlm", "divprune", "none", "fastervlm:128+fastv:64"]
keeps = [64, "11%", 0.5]
targets = ["ort-cpu", "trt-rtx:sm86,sm89", "trt@l4", "trt@orin"]

[export]
max_batch = 2
grids = ["1x2"]
parity = "vision"

[build]
dtype = "bf16"
level = 2

[method.divprune]
keeps = [32]
params = { METRIC = 3 }
export = { parity = "none" }
build = { level = 5, refittable = true }

[gpus]
l4 = { resource = "accelerator_type:L4", amount = 0.001 }
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "a.toml").write_text(text)
        return tmp_path / "a.toml"

    return write


def test_every_combination_with_what_its_method_changes(file):
    found = read_matrix(file(GOOD))
    assert len(found.bundles) == 2 * (3 + 1 + 1 + 1)
    assert len({each.name for each in found.bundles}) == len(found.bundles)
    first, own = found.bundles[0], next(each for each in found.bundles if each.recipe.method == "divprune")
    assert (first.recipe.model, first.recipe.keep, first.recipe.targets) == ("demo", "64", ("ort-cpu",))
    assert (first.recipe.max_batch, first.recipe.grids, first.recipe.parity) == (2, ("1x2",), "vision")
    assert first.recipe.later == {"trt-rtx": "bf16", "trt": "bf16"}
    assert first.goals == (Goal("trt-rtx:sm86,sm89"), Goal("trt", "l4"), Goal("trt", "orin"))
    assert first.build == {"dtype": "bf16", "level": 2}
    assert (own.recipe.keep, own.recipe.params, own.recipe.parity) == ("32", {"METRIC": "3"}, "none")
    assert own.build == {"dtype": "bf16", "level": 5, "refittable": True}
    assert found.gpus == {"l4": ("accelerator_type:L4", 0.001), "orin": ("orin", 1.0)}
    assert [each.recipe.keep for each in found.bundles if each.recipe.method == "none"] == [None, None]


def test_paths_are_told_to_workers_in_full(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("llava", "clip", "demo"):
        (tmp_path / name).mkdir()
    text = GOOD.replace('"demo:llava-1.5"', '"llava", "org/name"').replace("max_batch = 2", 'aux = { clip = "clip" }')
    found = read_matrix(file(text.replace("level = 2", 'plugin = "llava"')))
    assert {each.recipe.model for each in found.bundles} == {"demo", str(tmp_path / "llava"), "org/name"}
    assert found.bundles[0].recipe.aux == {"clip": str(tmp_path / "clip")}
    assert found.bundles[0].build["plugin"] == str(tmp_path / "llava")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("models = [", "models = ", "a.toml is not TOML: "),
        ('models = ["demo", "demo:llava-1.5"]', "", "a.toml: models is missing: give a list of at least one"),
        ('["demo", "demo:llava-1.5"]', '"demo"', "a.toml: models is 'demo', not a list, each a text"),
        ('["demo", "demo:llava-1.5"]', '["a/demo", "b/demo"]', "two bundles would be called demo-fastervlm-64"),
        ('"fastervlm", ', '"fastervln", ', "a.toml: methods has 'fastervln', which is none"),
        ("keeps = [64", "keeps = [true", "not a list, each a text or a whole number or a number"),
        ('keeps = [64, "11%", 0.5]', "", "a.toml: keeps is missing: fastervlm needs a budget"),
        ('"ort-cpu"', '"ort-gpu"', "a.toml: targets has 'ort-gpu': unknown target 'ort-gpu'"),
        ("sm86,sm89", "sm11", "a.toml: targets has 'trt-rtx:sm11': "),
        ('"trt@l4"', '"trt@"', "a.toml: targets has 'trt@': behind the @ comes a kind of GPU"),
        ('"ort-cpu"', '"ort-cpu@l4"', "graphs are the same for every GPU; leave @l4 out"),
        ("max_batch = 2", "max_batsch = 2", "a.toml: export.max_batsch is not known; there are: max_batch, "),
        ("max_batch = 2", 'max_batch = "two"', "a.toml: export.max_batch is 'two', not a whole number"),
        ("max_batch = 2", "targets = []", "a.toml: export.targets is not known"),
        ('grids = ["1x2"]', "grids = [12]", "a.toml: export.grids is [12], not a list, each a text"),
        ('"vision"', '"eyes"', "a.toml: export.parity is 'eyes', not one of full, vision, none"),
        ('dtype = "bf16"', 'dtype = "fp8"', "a.toml: build.dtype is 'fp8', not one of fp32, fp16, bf16"),
        ("level = 5", "level = true", "a.toml: method.divprune.build.level is True, not a whole number"),
        ("METRIC = 3", "METRIC = []", "a.toml: method.divprune.params is "),
        ("[method.divprune]", "[method.fastv]", "a.toml: method.fastv is not among the methods"),
        ("amount = 0.001", 'amount = "all"', "a.toml: gpus.l4.amount is 'all', not a number"),
        ("[gpus]", "[gpu]", "a.toml: gpu is not known; there are: models, "),
    ],
)
def test_every_mistake_is_one_line_with_its_place(file, old, new, says):
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        read_matrix(file(GOOD.replace(old, new)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml: No such file"):
        read_matrix(tmp_path / "none.toml")
