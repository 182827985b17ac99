"""Damaged checkpoints: weights, tokenizers and templates that do not hold what they say, found before any work."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engines.template import MAX_CPU_S
from exporter.checkpoint import INDEX, SINGLE
from exporter.draft import Draft
from exporter.recipe import Recipe
from tests.exporter.mistakes import EXPORT, configure, copy_checkpoint, refused


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A copy of the demo checkpoint; whatever happens to it, nothing appears beside it."""
    monkeypatch.chdir(tmp_path)
    yield copy_checkpoint(tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def wrong(checkpoint, says, where=""):
    refused(*EXPORT, "--model", checkpoint, says=says, where=where)


def replace(checkpoint, name, content):
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_pickles_are_not_opened(checkpoint):
    (checkpoint / SINGLE).rename(checkpoint / "pytorch_model.bin")
    wrong(checkpoint, "has its weights as pickles only, which can run code: convert them")


@pytest.mark.parametrize("kind", ["gone", "folder", "fifo", "device"])
def test_no_weights(checkpoint, kind):
    (checkpoint / SINGLE).unlink()
    if kind == "folder":
        (checkpoint / SINGLE).mkdir()
    elif kind == "fifo":
        os.mkfifo(checkpoint / SINGLE)
    elif kind == "device":
        (checkpoint / SINGLE).symlink_to("/dev/zero")
    wrong(checkpoint, f"{checkpoint} has neither {SINGLE} nor {INDEX}")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:100_000], "is truncated: 4287608 bytes are missing; download or save the checkpoint again"),
        (lambda data: data[:5], "is truncated within its header"),
        (lambda _: b"", "is truncated within its header"),
        (lambda data: struct.pack("<Q", 2**63) + data[8:], "is truncated within its header"),
        (lambda data: data[:8] + b"\xff" * 9 + data[17:], "the safetensors header is not a JSON object"),
        (lambda data: data + b"x", "has 1 bytes behind its last tensor"),
    ],
)
def test_damaged_shards(checkpoint, damage, says):
    replace(checkpoint, SINGLE, damage((checkpoint / SINGLE).read_bytes()))
    wrong(checkpoint, says, where=str(checkpoint / SINGLE))


@pytest.mark.parametrize(
    ("dtype", "says"), [(np.int16, "is I16; supported: F32, F16, BF16"), (np.int8, "is I8"), (np.float64, "is F64")]
)
@pytest.mark.parametrize("mixed", [False, True])
def test_weights_of_a_dtype_that_no_engine_takes(checkpoint, dtype, says, mixed):
    weights = load_file(checkpoint / SINGLE)
    names = [name for name in weights if not mixed or "norm" in name]
    save_file(weights | {name: weights[name].astype(dtype) for name in names}, checkpoint / SINGLE)
    wrong(checkpoint, says)


def test_floats_of_two_widths_are_no_mistake(checkpoint):
    """Norms in fp32 beside fp16 matrices: the matrices decide."""
    weights = load_file(checkpoint / SINGLE)
    save_file({n: w.astype(np.float32) if "norm" in n else w for n, w in weights.items()}, checkpoint / SINGLE)
    assert Draft.of(Recipe(model=str(checkpoint), keep="64", targets=("ort-cpu",))).stored == "fp16"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w[:-1], "self_attn.q_proj.weight is [159, 160], config.json says [160, 160]"),
        (lambda w: w.reshape(-1), "self_attn.q_proj.weight is [25600], config.json says [160, 160]"),
        (lambda _: None, "no tensor for model.language_model.layers.0.self_attn.q_proj.weight; the checkpoint is"),
    ],
)
def test_weights_that_do_not_fit_the_config(checkpoint, change, says):
    weights = load_file(checkpoint / SINGLE)
    name = next(name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight") and "language" in name)
    changed = change(weights.pop(name))
    save_file(weights if changed is None else {**weights, name: np.ascontiguousarray(changed)}, checkpoint / SINGLE)
    wrong(checkpoint, says)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({}, f"{INDEX} has no weight_map"),
        ({"weight_map": []}, f"{INDEX} has no weight_map"),
        ({"weight_map": {"a": 3}}, "names 3, which is not a plain *.safetensors file name"),
        ({"weight_map": {"a": "../a.safetensors"}}, "names '../a.safetensors'"),
        ({"weight_map": {"a": "/a.safetensors"}}, "names '/a.safetensors'"),
        ({"weight_map": {"a": "a.bin"}}, "names 'a.bin'"),
        ({"weight_map": {"a": "two.safetensors"}}, f"shard two.safetensors is missing, though {INDEX} names it"),
        ({"weight_map": {"a": "one.safetensors"}}, "tensor 'a' is not in one.safetensors, where the index puts it"),
    ],
)
def test_indices(checkpoint, index, says):
    (checkpoint / SINGLE).rename(checkpoint / "one.safetensors")
    (checkpoint / INDEX).write_text(json.dumps(index))
    wrong(checkpoint, says)
    (checkpoint / INDEX).write_text("{")
    wrong(checkpoint, f"{INDEX} is not valid JSON")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"added_tokens": [], "model__vocab": {"<unk>": 3}}, "has no token 4, the image token"),
        ({"model__vocab__zzz": -1}, "not a tokenizer that works"),
        ({"model__unk_token": "<nope>"}, "not a tokenizer that works (WordLevel error: Missing [UNK] token"),
        ({"model__vocab__color": 5000}, "writes token 5000; the model's vocabulary ends at 67"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}}, ""),
        ({"model": {"type": "Unigram", "unk_id": 99, "vocab": [["a", -1.0]]}}, "not a tokenizer that works"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "not a tokenizer that works"),
    ],
)
def test_tokenizers(checkpoint, changes, says):
    configure(checkpoint, "tokenizer.json", **changes)
    wrong(checkpoint, says, where=str(checkpoint / "tokenizer.json"))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", b"\xff\x00", "[" * 100_000])
def test_files_that_hold_no_tokenizer(checkpoint, content):
    replace(checkpoint, "tokenizer.json", content)
    wrong(checkpoint, "", where=f"{checkpoint / 'tokenizer.json'}: not ")


def test_no_tokenizer(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    wrong(checkpoint, "no tokenizer.json; save the tokenizer with transformers' save_pretrained")


def test_no_processor(checkpoint):
    (checkpoint / "preprocessor_config.json").unlink()
    wrong(checkpoint, "no preprocessor_config.json; the checkpoint does not say how pictures are prepared")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "'s chat template cannot render this conversation: Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", f"; {MAX_CPU_S} s and"),
        ("{{ 'x' * 10**10 }}", "it takes more than 512 MiB"),
        ("{{ 'x' * 10**7 }}", "it writes more than 1048576 characters"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('id') }}", "is unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "is unsafe"),
        ("{{ raise_exception('no\nmore') }}", "cannot render this conversation: no more"),
        ("{{ messages[5].x }}", "has no element 5"),
        ("{% for %}", "'s chat template is not valid"),
        ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "'s chat template is not valid"),
        ("", "write one image as 0 tokens of number 4, config.json's image token: it must be one"),
        ("{{ '<image>' * 1000 }}", "write one image as 1000 tokens"),
        (b"\xff\xfe", "chat_template.jinja: not UTF-8"),
    ],
)
def test_templates(checkpoint, template, says):
    replace(checkpoint, "chat_template.jinja", template)
    wrong(checkpoint, says, where=str(checkpoint))


def test_a_template_that_leaves_no_room(checkpoint):
    replace(checkpoint, "chat_template.jinja", "<image> {{ 'what ' * 1000 }}")
    wrong(checkpoint, "pictures and a question take 1097 tokens, the model allows 512: keep fewer")


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("template", [3, {}, [], [{"name": "other", "template": "x"}]])
def test_templates_in_other_files(checkpoint, name, template):
    (checkpoint / "chat_template.jinja").unlink()
    (checkpoint / name).write_text(json.dumps({"chat_template": template}))
    wrong(checkpoint, "chat_template is neither a text nor a list", where=f"{checkpoint / name}: ")
