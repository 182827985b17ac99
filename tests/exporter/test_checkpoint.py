import json
import os
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from engines.bundle import hash_file
from engines.errors import UserError
from engines.json_file import LARGEST
from exporter import checkpoint as module
from exporter.checkpoint import find, open_checkpoint

A, B = np.arange(6, dtype=np.float16).reshape(2, 3), np.ones(4, np.float16)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def single(tmp_path):
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava"}')
    save_file({"a": A, "b": B}, folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava"}')
    save_file({"a": A}, folder / "one.safetensors")
    save_file({"b": B}, folder / "two.safetensors")
    index(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    return folder


def index(folder, weight_map):
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def refuse(folder, match):
    with pytest.raises(UserError, match=match) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_opens_one_file(single):
    found = open_checkpoint(single)
    assert found.config == {"model_type": "llava"}
    assert found.files == ["model.safetensors"]
    assert {name: t.shape for name, t in found.tensors.items()} == {"a": (2, 3), "b": (4,)}


def test_opens_shards(sharded):
    found = open_checkpoint(sharded)
    assert found.files == ["one.safetensors", "two.safetensors"]
    assert {name: t.file for name, t in found.tensors.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }
    a = found.tensors["a"]
    assert (sharded / a.file).read_bytes()[a.offset :][: a.nbytes] == A.tobytes()


def test_opens_a_hub_snapshot_of_links(single, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in single.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert open_checkpoint(snapshot).tensors.keys() == {"a", "b"}


def test_a_missing_config_is_named(single):
    (single / "config.json").unlink()
    refuse(single, "has no config.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"'])
def test_a_config_that_is_no_object_is_refused(single, text):
    (single / "config.json").write_text(text)
    refuse(single, "config.json is not ")


def test_a_huge_config_is_not_read(single):
    os.truncate(single / "config.json", LARGEST + 1)
    refuse(single, "config.json is too large")


def test_a_missing_shard_is_named(sharded):
    (sharded / "two.safetensors").unlink()
    refuse(sharded, "shard two.safetensors is missing")


def test_a_truncated_shard_is_named(sharded):
    os.truncate(sharded / "two.safetensors", (sharded / "two.safetensors").stat().st_size - 3)
    refuse(sharded, "two.safetensors is truncated: 3 bytes are missing")


def test_a_tensor_that_its_shard_lacks_is_named(sharded):
    index(sharded, {"a": "one.safetensors", "b": "one.safetensors"})
    refuse(sharded, "tensor 'b' is not in one.safetensors")


@pytest.mark.parametrize(
    "name",
    ["../one.safetensors", "/one.safetensors", "sub/one.safetensors", "..", "one.bin", "a\\b.safetensors", 7],
)
def test_an_index_names_plain_files_only(sharded, name):
    index(sharded, {"a": name})
    refuse(sharded, "not a plain")


@pytest.mark.parametrize("weight_map", [{}, [], None])
def test_an_index_without_map_is_refused(sharded, weight_map):
    index(sharded, weight_map)
    refuse(sharded, "has no weight_map")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-2.bin", "x.pt", "x.pth"])
def test_pickles_are_never_opened(single, name):
    (single / "model.safetensors").rename(single / name)
    refuse(single, r"pickles only.*save_pretrained\(\.\.\., safe_serialization=True\)")


def test_a_directory_without_weights_is_refused(single):
    (single / "model.safetensors").unlink()
    refuse(single, "neither model.safetensors nor model.safetensors.index.json")


def test_the_fingerprint_follows_headers_and_config(single):
    before = open_checkpoint(single)
    assert open_checkpoint(single).fingerprint() == before.fingerprint()
    assert replace(before, config={}).fingerprint() != before.fingerprint()
    save_file({"a": A.T.copy(), "b": B}, single / "model.safetensors")
    assert open_checkpoint(single).fingerprint() != before.fingerprint()


def test_the_content_hash_is_computed_once(single, monkeypatch):
    opened, calls = open_checkpoint(single), []

    def counting(path):
        calls.append(path)
        return hash_file(path)

    monkeypatch.setattr(module, "hash_file", counting)
    expected = hash_file(single / "model.safetensors")
    assert opened.content_hash("model.safetensors") == expected
    assert opened.content_hash("model.safetensors") == expected
    assert len(calls) == 1
    save_file({"a": A, "b": B + 1}, single / "model.safetensors")
    os.utime(single / "model.safetensors", (1, 1))
    assert opened.content_hash("model.safetensors") == hash_file(single / "model.safetensors") != expected


def test_finds_directories(single):
    assert find(str(single)) == single


def test_mistaken_paths_are_one_line(single):
    with pytest.raises(UserError, match="is a file: give the directory"):
        find(str(single / "config.json"))
    for text in ("nowhere", "./nowhere/x", "/nowhere/x", "../x", "a/b/c", ""):
        with pytest.raises(UserError, match="is no directory here; give"):
            find(text)


def test_downloads_no_code_and_no_pickles(single, monkeypatch):
    asked = {}

    def download(repo, allow_patterns):
        asked[repo] = allow_patterns
        return str(single)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find("llava-hf/llava-1.5-7b-hf") == single
    patterns = asked["llava-hf/llava-1.5-7b-hf"]
    assert "*.safetensors" in patterns
    assert not any(Path(f).match(p) for f in ("modeling.py", "x.bin", "x.pt", "x.pkl") for p in patterns)


def test_an_unreachable_hub_is_one_line(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'nobody/nothing' is no directory here, and the hub did not") as caught:
        find("nobody/nothing")
    assert "\n" not in str(caught.value)
