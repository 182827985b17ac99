"""`tp-export build`: engines in a bundle that is there, without an export."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from engines import bundle as bundles
from engines.bundle import open_bundle
from engines.errors import UserError
from engines.settings import Settings
from tests.exporter.adding.light_bundle import add, entry, light_bundle, whole
from tests.exporter.mistakes import refused, run


def test_an_engine_is_added_and_all_that_is_known_of_it(toy, path):
    before = open_bundle(path).contract
    added = add(path, "toy:sm90")
    assert (added.built, added.kept) == (["toy-sm90"], [])
    told = entry(path, "toy-sm90")
    assert told == added.contract["engines"]["toy-sm90"]
    parts = ("vision", "embed", "decoder")
    assert told["files"] == {part: f"engines/toy-sm90/{part}.plan" for part in parts}
    assert told["graphs"] == {part: f"onnx/{part}.fp16.onnx" for part in parts}
    assert told["layers"] == {part: f"engines/toy-sm90/{part}.layers.json" for part in parts}
    assert told["batch"] == dict.fromkeys(parts, before["limits"]["batch"])
    known = {"target": "toy", "options": ["sm90"], "weights": None, "dtype": "fp16", "settings": {}, "builder": "1"}
    assert told.items() >= {**known, "gpu": "sm90", "plugin": None}.items()
    assert told["fused_attention"]["embed"] == {"_gemm_mha_v2": 1}
    assert (told["build_s"]["vision"], told["peak_mib"]["vision"]) == (0.5, 7)
    after = open_bundle(path).contract
    assert {k: v for k, v in after.items() if k not in {"engines", "files", "sha256"}} == {
        k: v for k, v in before.items() if k not in {"engines", "files", "sha256"}
    }
    assert whole(path)


def test_builds_side_by_side_have_logs_of_their_own(toy, path, tmp_path):
    add(path)
    logs = {job.log for job in toy.builds}
    assert {log.name for log in logs} == {f"toy-{part}.{os.getpid()}.log" for part in ("vision", "embed", "decoder")}
    assert not any(log.exists() for log in logs)
    kept = next(iter(logs)).parent
    assert {log.name for log in kept.iterdir()} == {"toy-vision.log", "toy-embed.log", "toy-decoder.log"}


def test_several_engines_of_one_target_stand_beside_each_other(toy, path):
    assert add(path, "toy:sm86", "toy:sm89,sm86", "toy").built == ["toy-sm86", "toy-sm86-sm89", "toy"]
    assert open_bundle(path).contract["engines"].keys() == {"toy-sm86", "toy-sm86-sm89", "toy"}
    assert whole(path)


def test_what_is_there_and_unchanged_stays(toy, path):
    add(path)
    made, times = (path / "bundle.json").read_bytes(), (path / "bundle.json").stat().st_mtime_ns
    shutil.rmtree(os.environ["TP_EXPORT_CACHE"])
    assert add(path).kept == ["toy"]
    assert len(toy.builds) == 3
    assert ((path / "bundle.json").read_bytes(), (path / "bundle.json").stat().st_mtime_ns) == (made, times)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": Settings(level=2)}, {"settings": {"level": 2}}),
        ({"max_batch": 1}, {"batch": {"vision": 1, "embed": 1, "decoder": 1}}),
        ({"dtype": "fp32"}, {"dtype": "fp32"}),
    ],
)
def test_another_wish_replaces_what_has_its_name(toy, path, more, said):
    add(path)
    assert add(path, **more).built == ["toy"]
    assert len(toy.builds) == 6
    assert entry(path).items() >= said.items()
    assert whole(path)


def test_a_second_bundle_of_equal_graphs_and_weights_builds_nothing(toy, path, tmp_path):
    add(path)
    other = light_bundle(tmp_path / "other")
    assert add(other).built == ["toy"]
    assert len(toy.builds) == 3
    assert entry(other)["keys"] == entry(path)["keys"]
    for n, different in enumerate(({"scale": 2.0}, {"weights": b"v"}), 2):
        add(light_bundle(tmp_path / f"other{n}", **different))
        assert len(toy.builds) == 3 * n


def test_a_store_is_shared_and_never_emptied(toy, path, tmp_path, monkeypatch):
    store = tmp_path / "a/store"
    monkeypatch.setenv("TP_EXPORT_CACHE_GIB", "0")
    add(path, store=store)
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "another machine"))
    add(light_bundle(tmp_path / "other"), store=store)
    assert len(toy.builds) == 3
    [*plans] = store.rglob("*.plan")
    assert len(plans) == 3
    plans[0].write_bytes(b"damaged")
    add(light_bundle(tmp_path / "third"), store=store)
    assert len(toy.builds) == 4  # hashes are compared before anything is taken
    with pytest.raises(UserError, match=r"--store .*: File exists; give a directory"):
        add(path, store=path / "bundle.json")


def test_engines_depend_on_the_code_that_builds_them_and_no_other(toy, path, tmp_path):
    from exporter import build_engines

    add(path)
    with patch.object(build_engines.cache, "source_hash", lambda *folders: f"changed {folders}"):
        add(light_bundle(tmp_path / "other"))
    assert len(toy.builds) == 6


def test_weights_are_not_hashed_again(toy, path, tmp_path, monkeypatch):
    hashed, real = [], bundles.hash_file
    copy = shutil.copytree(path, tmp_path / "copy", copy_function=shutil.copyfile)
    for module in ("engines.bundle", "exporter.build_engines", "exporter.cache"):
        monkeypatch.setattr(f"{module}.hash_file", lambda file: hashed.append(file.name) or real(file))
    add(path)
    open_bundle(path)
    assert "model.safetensors" not in hashed
    add(copy)
    add(copy, dtype="fp32")
    open_bundle(copy)
    assert hashed.count("model.safetensors") == 1
    assert [name for name in hashed if name == "vision.plan"] == ["vision.plan"] * 3  # two made, one found


def test_graphs_are_engines_too(path):
    parts = open_bundle(path).contract["parts"]
    assert add(path, "ort-cpu").built == ["ort-cpu"]
    assert entry(path, "ort-cpu")["files"] == {name: part["files"]["fp32"] for name, part in parts.items()}
    assert entry(path, "ort-cpu")["fused_attention"] == {}
    assert not (path / "engines").exists()
    assert add(path, "ort-cpu").kept == ["ort-cpu"]
    assert whole(path)


def test_a_target_that_reads_another_form_has_its_own_graph(toy, path):
    toy.form = ("explicit_attention",)
    toy.legal = lambda _, loops: ("explicit_attention",)
    for _ in range(2):
        add(path)
        assert entry(path)["graphs"]["vision"] == "onnx/vision.fp16.toy.onnx"
        assert entry(path)["graphs"]["embed"] == "onnx/embed.fp16.onnx"
        assert whole(path)
    assert len(toy.builds) == 3
    toy.legal = lambda _, loops: ()
    add(path)
    assert not (path / "onnx/vision.fp16.toy.onnx").exists()
    assert whole(path)


def test_a_plugin_goes_into_the_bundle(toy, tmp_path):
    library = tmp_path / "mine.so"
    library.write_bytes(b"code")
    path, settings = light_bundle(tmp_path / "bundle", plugin=True), Settings(plugin=str(library))
    add(path, settings=settings)
    told, sha256 = entry(path), hashlib.sha256(b"code").hexdigest()
    assert told["plugin"] == {"file": "engines/toy/libtp_export_plugins.so", "sha256": sha256}
    assert told["settings"] == {}
    assert told["graphs"] == {
        "vision": "onnx/vision.fp16.plugin.onnx",
        "embed": "onnx/embed.fp16.onnx",
        "decoder": "onnx/decoder.fp16.onnx",
    }
    assert whole(path)
    assert add(path, settings=settings).kept == ["toy"]
    library.write_bytes(b"other code")
    assert add(path, settings=settings).built == ["toy"]
    with pytest.raises(UserError, match="no graphs in fp16 for a plugin: export it with --plugin"):
        add(light_bundle(tmp_path / "without"), settings=settings)
    with pytest.raises(UserError, match=r"--plugin /gone\.so: no such file"):
        add(path, settings=Settings(plugin="/gone.so"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--target", "abacus"], "unknown target 'abacus'"),
        (["--target", "toy:a", "--target", "toy:a"], "target named twice: toy-a"),
        (["--target", "toy", "--dtype", "bf16"], "no graphs in bf16, only in fp32 and fp16: choose one with --dtype"),
        (["--target", "ort-cpu", "--dtype", "bf16"], "ort-cpu computes in fp32 or fp16"),
        (["--target", "ort-cpu", "--refittable"], "target ort-cpu builds no plan: drop --refittable"),
        (["--target", "toy", "--weight-streaming"], "target toy cannot be built so: drop --weight-streaming"),
        (["--target", "toy", "--max-batch", "99"], "--max-batch 99: engines of this bundle take 1 to"),
        (["--target", "toy", "--max-length", "1"], "--max-length 1: engines of this bundle take"),
        (["--target", "toy", "--level", "9"], "'--level': 9 is not in the range 0<=x<=5"),
        (["--target", "toy", "--plugin", "gone.so"], "--plugin gone.so: no such file"),
        (["--target", "toy", "--refit-from", "x"], "--refit-from x: engines of toy keep their weights; drop it"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(toy, path, words, says):
    before = (path / "bundle.json").read_bytes()
    refused("build", path, *words, says=says)
    assert (path / "bundle.json").read_bytes() == before
    assert whole(path)


def test_the_command_says_what_it_did(toy, path):
    code, said, _ = run("build", path, "--target", "toy:sm89", "--level", "2")
    assert (code, said.splitlines()[-1]) == (0, f"{path}: toy-sm89 added")
    code, said, _ = run("build", path, "--target", "toy:sm89", "--level", "2")
    assert (code, said) == (0, f"{path}: toy-sm89 is there already, unchanged\n")


def test_what_is_no_bundle_is_refused(toy, path, tmp_path):
    refused("build", tmp_path / "gone", "--target", "toy", says="is not a bundle")
    (path / "onnx/model.safetensors").write_bytes(b"x")
    refused("build", path, "--target", "toy", says="model.safetensors has 1 bytes, not 32")


def test_a_bundle_that_is_only_read_is_refused(toy, path, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, how: real(p, how) and not (how & os.W_OK and p == path))
    refused("build", path, "--target", "toy", says="may not be written: copy the bundle to a place of your own")


def test_a_folder_that_leads_elsewhere_is_refused(toy, path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (path / "engines").symlink_to(tmp_path / "elsewhere")
    refused("build", path, "--target", "toy", says="engines is a symbolic link")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_full_disk_is_one_line_and_leaves_the_bundle(toy, path, monkeypatch):
    monkeypatch.setattr("exporter.build_engines.place", lambda *_: Path("/dev/full").write_bytes(b"x"))
    refused("build", path, "--target", "toy", says="no space left in")
    assert whole(path)


def test_a_builder_that_refuses_leaves_what_was_there(toy, path):
    add(path)

    def build(job):
        raise UserError("no")

    toy.build = build
    with pytest.raises(UserError, match=r"^no$"):
        add(path, settings=Settings(level=1))
    assert entry(path)["settings"] == {}
    assert whole(path)


def test_what_living_builds_have_staged_is_left_alone(toy, path):
    (path / f".build-{os.getppid()}").mkdir()
    (path / "onnx/.pending-1.vision.onnx").write_bytes(b"x")
    (path / ".build-999999999").mkdir()
    add(path)
    assert [each.name for each in path.glob(".*")] == [f".build-{os.getppid()}"]
    assert [each.name for each in (path / "onnx").glob(".*")] == [".pending-1.vision.onnx"]  # process 1 lives


def test_records_name_times_as_they_are_here(toy, path, tmp_path):
    copy = shutil.copytree(path, tmp_path / "copy", copy_function=shutil.copyfile)
    add(copy)
    told = json.loads((copy / "bundle.json").read_text())
    assert all((copy / name).stat().st_mtime_ns == record["mtime_ns"] for name, record in told["files"].items())
