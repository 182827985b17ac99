"""Exports that compare less than everything, or whose weights are links."""

import json
import shutil

import pytest
from click.testing import CliRunner
from rich.console import Console
from safetensors.numpy import load_file, save_file

from engines.bundle import hash_file, open_bundle
from engines.checkup import check_precision
from engines.errors import UserError
from exporter import transport
from exporter.cli import tp_export
from exporter.demo import demo_checkpoint
from exporter.export import export
from exporter.pictures import pictures
from exporter.recipe import Recipe
from tests.exporter.models.tiny_llama import tiny_model, write


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bundles by mode; the graphs are traced once."""
    folder, bundles = tmp_path_factory.mktemp("modes"), {}

    def make(mode):
        if mode not in bundles:
            recipe = Recipe(method="fastervlm", keep="64", targets=("ort-cpu",), parity=mode)
            bundles[mode] = export(recipe, folder / mode, Console(quiet=True))
        return bundles[mode]

    return make


def test_vision_alone_is_compared_and_the_rest_is_said_not_to_be(made):
    parity = json.loads((made("vision").path / "parity.json").read_text())
    assert parity["verdict"] == made("vision").contract["parity"]["verdict"] == "vision pass"
    verdicts = {row["level"]: row["verdict"] for row in parity["rows"]}
    assert verdicts == {
        "indices": "pass 4/4",
        "embeddings": "pass 4/4",
        "logits": "not compared",
        "tokens": "not compared",
    }
    assert parity["speed"] == []
    assert (made("vision").path / "preview.png").is_file()


def test_nothing_is_compared(made):
    bundle = made("none")
    assert bundle.parity["verdict"] == "not compared"
    assert {row["verdict"] for row in bundle.parity["rows"]} == {"not compared"}
    assert not (bundle.path / "parity").exists()
    assert not (bundle.path / "preview.png").exists()
    assert "not compared" in (bundle.path / "report.html").read_text()


@pytest.mark.parametrize(("mode", "verdict"), [("vision", "vision pass"), ("none", "not compared")])
def test_check_and_run_work_on_such_bundles(made, mode, verdict):
    path = str(made(mode).path)
    checked = CliRunner(env={"COLUMNS": "200"}).invoke(tp_export, ["check", path])
    assert checked.exit_code == 0, checked.output
    assert f"Verdict: {verdict}" in checked.output
    assert "not compared" in checked.output
    asked = pictures("demo")[0].questions[0]
    command = ["run", path, "--image", str(pictures("demo")[0].path), "--prompt", asked.text]
    assert CliRunner().invoke(tp_export, command).output == f"{asked.answer}\n"


def test_check_still_sees_wrong_rows(made, tmp_path):
    """The reference of the vision parts is compared again, not believed."""
    copy = tmp_path / "copy"
    shutil.copytree(made("vision").path, copy)
    saved = copy / "parity/reference.fp32.safetensors"
    tensors = load_file(saved)
    assert not [name for name in tensors if "logits" in name]
    tensors["0/embeds"] = tensors["0/embeds"] + 1
    bundle = open_bundle(copy)
    save_file(tensors, saved)
    assert hash_file(saved) != bundle.contract["files"]["parity/reference.fp32.safetensors"]["sha256"]
    rows = check_precision(bundle, "fp32")
    assert [row.case for row in rows if not row.ok] == [0]


def test_text_models_have_no_vision_part_to_compare(tmp_path):
    write(tmp_path, tiny_model())
    with pytest.raises(UserError, match=r"--parity vision: LLaMA \(text\) has no vision part"):
        export(Recipe(model=str(tmp_path), method="none", parity="vision"), tmp_path / "x", Console())


def test_linked_weights_are_the_checkpoint_s_own_file(tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(demo_checkpoint("demo"), model)
    recipe = Recipe(
        model=str(model), method="fastervlm", keep="64", targets=("ort-cpu",), parity="none", weights="link"
    )
    monkeypatch.setattr(transport, "stream", lambda *_: pytest.fail("a byte was moved"))
    bundle = export(recipe, tmp_path / "bundle", Console(quiet=True)).path
    weights = model / "model.safetensors"
    assert weights.samefile(bundle / "onnx/model.safetensors")
    assert CliRunner().invoke(tp_export, ["check", str(bundle)]).exit_code == 0

    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    checked = CliRunner().invoke(tp_export, ["check", str(bundle)])
    assert "is not what was exported (its sha256 differs)" in str(checked.exception)
