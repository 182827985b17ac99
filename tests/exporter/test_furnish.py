import json
import os
import shutil
from types import SimpleNamespace

import pytest

from engines.errors import UserError
from exporter.checkpoint import Checkpoint
from exporter.demo import demo_checkpoint
from exporter.furnish import chat_template, check_prompt, furnish

FACTS = SimpleNamespace(image_token_id=4, video_token_id=None, vocab_size=68)  # the demo's
JINJA = "{{ messages[0]['content'] }} fertig: é ende"


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "config.json").write_text('{"model_type": "llava"}')
    (folder / "modeling_own.py").write_text("raise SystemExit")
    for shard in ("a.safetensors", "b.safetensors"):
        (folder / shard).write_bytes(os.urandom(1000))
    return folder


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    return folder


def listed(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_copies_the_shards_and_what_the_runtime_reads(checkpoint, root):
    (checkpoint / "preprocessor_config.json").write_text("{}")
    (checkpoint / "chat_template.jinja").write_text(JINJA, encoding="utf-8")
    furnish(Checkpoint(checkpoint, {}, {}, ["a.safetensors"]), root)
    texts = {"tokenizer.json", "config.json", "preprocessor_config.json", "chat_template.jinja"}
    assert listed(root) == texts | {"onnx/a.safetensors"}, "and nothing else: no code, no shard that no one asked for"
    assert (root / "onnx/a.safetensors").read_bytes() == (checkpoint / "a.safetensors").read_bytes()
    assert (root / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()
    assert (root / "chat_template.jinja").read_text(encoding="utf-8") == JINJA


def test_links_become_files(checkpoint, root, tmp_path):
    """A hub snapshot is made of links; no loader of external data follows them."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in checkpoint.iterdir():
        (snapshot / file.name).symlink_to(file)
    furnish(Checkpoint(snapshot, {}, {}, ["b.safetensors"]), root)
    assert listed(root) == {"tokenizer.json", "config.json", "onnx/b.safetensors"}
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert (root / "onnx/b.safetensors").read_bytes() == (checkpoint / "b.safetensors").read_bytes()


def keep(folder, place):
    """Put the template where one of the ways of saving a checkpoint puts it."""
    text = JINJA if place.endswith(".jinja") else json.dumps({"chat_template": JINJA, "other": 1})
    (folder / place).write_text(text, encoding="utf-8")


PLACES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")


@pytest.mark.parametrize("place", PLACES)
def test_the_chat_template_is_found_wherever_it_is_kept(checkpoint, root, place):
    keep(checkpoint, place)
    assert chat_template(checkpoint) == JINJA
    furnish(Checkpoint(checkpoint, {}, {}, []), root)
    assert (root / "chat_template.jinja").read_text(encoding="utf-8") == JINJA


@pytest.mark.parametrize("first", range(3))
def test_earlier_places_win(checkpoint, first):
    for place in PLACES[first:]:
        keep(checkpoint, place)
    file = checkpoint / PLACES[first]
    file.write_text(file.read_text(encoding="utf-8").replace("ende", "mine"), encoding="utf-8")
    assert chat_template(checkpoint).endswith("mine")


def test_the_default_of_several_templates_is_taken(checkpoint):
    several = [{"name": "tools", "template": "other"}, {"name": "default", "template": JINJA}]
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert chat_template(checkpoint) == JINJA


@pytest.mark.parametrize("text", ["{}", '{"chat_template": null}'])
def test_no_template_is_no_error_and_no_file(checkpoint, root, text):
    (checkpoint / "tokenizer_config.json").write_text(text)
    assert chat_template(checkpoint) is None
    furnish(Checkpoint(checkpoint, {}, {}, []), root)
    assert "chat_template.jinja" not in listed(root)


@pytest.mark.parametrize("stored", [3, {}, [], ["default"], [{"name": "tools", "template": "t"}]])
def test_a_template_that_is_no_text_is_named(checkpoint, stored):
    (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": stored}))
    with pytest.raises(UserError, match=r"chat_template\.json: chat_template is neither a text nor"):
        chat_template(checkpoint)


@pytest.mark.parametrize("text", ["{", "", "nonsense", "[]"])
def test_broken_json_is_named(checkpoint, text):
    (checkpoint / "processor_config.json").write_text(text)
    with pytest.raises(UserError, match=r"processor_config\.json is not (valid JSON|a JSON object)"):
        chat_template(checkpoint)


@pytest.fixture
def demo(tmp_path):
    """The built-in checkpoint's prompt files, to be spoilt."""
    folder = tmp_path / "demo"
    folder.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(demo_checkpoint("demo") / name, folder)
    return folder


def test_template_and_tokenizer_write_one_image_token(demo):
    assert (
        check_prompt(demo, FACTS, ["what color is the star ?"]) == 12
    )  # <s> USER : <image> what color is the star ? ASSISTANT :


@pytest.mark.parametrize(("template", "places"), [("a star", 0), ("<image> <image>", 2)])
def test_another_count_of_image_tokens_is_refused(demo, template, places):
    (demo / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=f"write one image as {places} tokens of number 4.* it must be one"):
        check_prompt(demo, FACTS, ["what color is the star ?"])


def test_a_missing_tokenizer_says_how_to_get_one(demo):
    (demo / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json; save the tokenizer"):
        check_prompt(demo, FACTS, ["what color is the star ?"])
