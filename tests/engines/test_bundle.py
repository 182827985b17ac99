import json
import os
from pathlib import Path

import pytest

from engines import bundle
from engines.bundle import FORMAT, contract_hash, hash_file, open_bundle, verify
from engines.errors import UserError
from engines.json_file import LARGEST

TENSOR = {"name": "x", "dtype": "float32", "shape": ["batch", 2]}


def record(file):
    return {
        "sha256": hash_file(file),
        "bytes": file.stat().st_size,
        "mtime_ns": file.stat().st_mtime_ns,
    }


@pytest.fixture
def folder(tmp_path):
    """A small valid bundle."""
    root = tmp_path / "bundle"
    (root / "onnx").mkdir(parents=True)
    (root / "onnx/vision.fp32.onnx").write_bytes(b"graph")
    (root / "tokenizer.json").write_bytes(b"{}")
    files = {f: record(root / f) for f in ("onnx/vision.fp32.onnx", "tokenizer.json")}
    contract = {key: {} for key in ("recipe", "limits", "model")}
    contract |= {key: [] for key in ("plan", "groups", "ran", "prefill", "states", "pictures")}
    contract |= {"positions": "keep", "warm_up": 0, "slot_positions": False, "kv": {}}
    names = {"fp32": "onnx/vision.fp32.onnx"}
    contract["parts"] = {"vision": {"inputs": [TENSOR], "outputs": [TENSOR], "files": names}}
    contract["engines"] = {
        "ort-cpu": {"target": "ort-cpu", "dtype": "fp32", "files": {"vision": "onnx/vision.fp32.onnx"}}
    }
    write(root, {"format": FORMAT, **contract, "files": files})
    return root


def write(folder, contract):
    (folder / "bundle.json").write_text(json.dumps({**contract, "sha256": contract_hash(contract)}))


def rewrite(folder, change):
    contract = json.loads((folder / "bundle.json").read_text())
    change(contract)
    write(folder, contract)


def refuse(folder, match):
    with pytest.raises(UserError, match=match) as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)


def test_opens_a_bundle_wherever_it_was_moved(folder, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    bundle = open_bundle(moved)
    assert bundle.dir == moved
    assert bundle.contract["positions"] == "keep"
    verify(bundle)


def test_a_changed_time_means_hashing_again(folder):
    graph = folder / "onnx/vision.fp32.onnx"
    os.utime(graph, (1, 1))
    open_bundle(folder)
    graph.write_bytes(b"grapH")
    refuse(folder, r"vision.fp32.onnx is not what was exported")


def test_only_full_verification_sees_a_change_that_hides_its_time(folder):
    graph = folder / "onnx/vision.fp32.onnx"
    before = graph.stat().st_mtime_ns
    graph.write_bytes(b"grapH")
    os.utime(graph, ns=(before, before))
    bundle = open_bundle(folder)
    with pytest.raises(UserError, match=r"vision.fp32.onnx is not what was exported"):
        verify(bundle, full=True)


def test_another_size_is_refused(folder):
    (folder / "tokenizer.json").write_bytes(b"{} ")
    refuse(folder, "tokenizer.json has 3 bytes, not 2")


def test_a_missing_file_is_named(folder):
    (folder / "tokenizer.json").unlink()
    refuse(folder, "tokenizer.json is missing")


@pytest.mark.parametrize("name", ["../secret", "onnx/../../secret", "/etc/hostname", "", "onnx\\x"])
def test_names_outside_the_bundle_are_refused(folder, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")
    rewrite(folder, lambda c: c["files"].update({name: record(tmp_path / "secret")}))
    refuse(folder, "not a path inside the bundle")


def test_symlinks_are_refused_as_file_and_as_folder(folder, tmp_path):
    (folder / "onnx").rename(tmp_path / "real")
    (folder / "onnx").symlink_to(tmp_path / "real")
    refuse(folder, "symbolic link")
    (folder / "onnx").unlink()
    (tmp_path / "real").rename(folder / "onnx")
    (folder / "tokenizer.json").rename(tmp_path / "t")
    (folder / "tokenizer.json").symlink_to(tmp_path / "t")
    refuse(folder, "symbolic link")


def test_a_folder_in_place_of_a_file_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    refuse(folder, "tokenizer.json is not a plain file")


def test_parts_and_engines_name_recorded_files_only(folder):
    rewrite(folder, lambda c: c["engines"]["ort-cpu"]["files"].update(vision="onnx/other.onnx"))
    refuse(folder, "uses onnx/other.onnx, which has no record")


@pytest.mark.parametrize(
    "more",
    [
        {"graphs": {"vision": "engines/x"}},
        {"layers": {"vision": "engines/x"}},
        {"plugin": {"file": "engines/x", "sha256": ""}},
    ],
)
def test_whatever_an_engine_names_is_recorded(folder, more):
    rewrite(folder, lambda c: c["engines"]["ort-cpu"].update(more))
    refuse(folder, "engines.ort-cpu uses engines/x, which has no record")


@pytest.mark.parametrize("more", [{"graphs": []}, {"layers": {"vision": 7}}, {"plugin": "engines/x"}, {"plugin": {}}])
def test_what_an_engine_names_are_files(folder, more):
    rewrite(folder, lambda c: c["engines"]["ort-cpu"].update(more))
    refuse(folder, "engines.ort-cpu names no files")


@pytest.mark.parametrize("key", ["target", "dtype"])
def test_an_engine_says_what_it_is(folder, key):
    rewrite(folder, lambda c: c["engines"]["ort-cpu"].pop(key))
    refuse(folder, f"engines.ort-cpu does not say its {key}")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(format=2), "not bundle format 4; open it with the tp-export version that wrote it"),
        (lambda c: c.pop("prefill"), "'prefill' is missing"),
        (lambda c: c.pop("groups"), "'groups' is missing"),
        (lambda c: c.update(files=[]), "'files' is missing or not a dict"),
        (lambda c: c["files"]["tokenizer.json"].pop("sha256"), "record of 'tokenizer.json'"),
        (lambda c: c["parts"]["vision"].pop("inputs"), "part vision"),
        (lambda c: c["parts"]["vision"]["outputs"][0].pop("shape"), "part vision"),
        (lambda c: c["parts"].update(embed=7), "parts.embed names no files"),
    ],
)
def test_an_incomplete_contract_is_refused(folder, change, match):
    rewrite(folder, change)
    refuse(folder, match)


def test_a_changed_contract_is_refused(folder):
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"keep"', '"renumber"'))
    refuse(folder, "bundle.json is not what was exported")


def test_a_stray_file_that_readers_would_open_is_refused(folder):
    (folder / "notes.txt").write_text("mine")
    open_bundle(folder)
    (folder / "chat_template.jinja").write_text("{{ 1 }}")
    refuse(folder, "chat_template.jinja is not what was exported: bundle.json has no record of it")
    (folder / "chat_template.jinja").unlink()
    (folder / "clip").mkdir()
    (folder / "clip/tokenizer.json").write_text("{}")
    refuse(folder, "clip/tokenizer.json is not what was exported")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_broken_json_is_refused(folder, text):
    (folder / "bundle.json").write_text(text)
    refuse(folder, "not valid JSON|not a JSON object")


def test_a_huge_contract_is_not_read(folder):
    os.truncate(folder / "bundle.json", LARGEST + 1)
    refuse(folder, "too large")


def test_a_directory_without_contract_is_no_bundle(tmp_path):
    refuse(tmp_path, "is not a bundle")
    refuse(Path("/nonexistent"), "is not a bundle")


def test_who_verifies_everything_hashes_nothing_before(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(bundle, "hash_file", lambda path: hashed.append(path.name) or "")
    for file in ("tokenizer.json", "onnx/vision.fp32.onnx"):
        os.utime(folder / file, (1, 1))  # as a copy
    opened = open_bundle(folder, verify_later=True)
    assert hashed == []
    with pytest.raises(UserError, match="its sha256 differs"):
        verify(opened)
