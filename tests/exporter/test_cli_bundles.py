"""Bundles that are not what was exported, and questions that cannot be asked of good ones."""

import json
import os
import shutil

import pytest
from PIL import Image

from engines.bundle import contract_hash
from tests.exporter.mistakes import DROP, refused, run

NAMES = [
    "bundle.json",
    "chat_template.jinja",
    "config.json",
    "engines/trt-rtx/decoder.plan",
    "onnx/embed.fp32.onnx",
    "onnx/model.safetensors",
    "onnx/vision.fp16.onnx",
    "parity.json",
    "parity/cases.json",
    "parity/reference.fp32.safetensors",
    "parity/shapes-1.png",
    "preview.png",
    "report.html",
    "tokenizer.json",
    "tokenizer_config.json",
]
ASK = ("--prompt", "what color is the star ?", "--max-new-tokens", "2")


@pytest.fixture
def bundle(demo_bundle, tmp_path):
    """A bundle to be damaged."""
    return shutil.copytree(demo_bundle, tmp_path / "bundle")


def commands(bundle):
    return ("inspect", bundle), ("run", bundle, *ASK), ("check", bundle)


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("name", NAMES)
def test_an_altered_file(bundle, name):
    replace(bundle / name, flip((bundle / name).read_bytes()))
    for words in commands(bundle):
        refused(*words, says="", where=bundle / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_or_gone(bundle, name):
    content = (bundle / name).read_bytes()
    replace(bundle / name, content[: len(content) // 2])
    refused("inspect", bundle, says="", where=bundle / name)
    (bundle / name).unlink()
    refused("inspect", bundle, says=name, where=bundle)


@pytest.mark.parametrize("name", NAMES[1:])
def test_an_alteration_that_hides_its_time(bundle, name):
    found = (bundle / name).stat()
    replace(bundle / name, flip((bundle / name).read_bytes()))
    os.utime(bundle / name, ns=(found.st_atime_ns, found.st_mtime_ns))
    refused("check", bundle, says="is not what was exported (its sha256 differs); copy", where=bundle / name)


@pytest.mark.parametrize("name", ["tokenizer.json", "onnx"])
def test_links(bundle, name):
    (bundle / name).rename(bundle / "elsewhere")
    (bundle / name).symlink_to("elsewhere")
    for words in commands(bundle):
        refused(*words, says="is or goes through a symbolic link; bundles hold plain files only", where=bundle)


def rewrite(bundle, path, value):
    """Change one value of bundle.json, with a hash that fits: as a hostile author would."""
    told = json.loads((bundle / "bundle.json").read_text())
    *outer, last = path
    section = told
    for key in outer:
        section = section[key]
    if value is DROP:
        del section[last]
    else:
        section[last] = value
    replace(bundle / "bundle.json", json.dumps({**told, "sha256": contract_hash(told)}).encode())


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"format": 1}', '{"format": 3}', "\udcff"])
def test_contracts_that_are_none(bundle, text):
    replace(bundle / "bundle.json", text.encode(errors="surrogateescape"))
    for words in commands(bundle):
        refused(*words, says="", where=bundle / "bundle.json")


RECORD = {"sha256": "0" * 64, "bytes": 1, "mtime_ns": 1}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "", "a\0b"])
def test_names_that_leave_the_bundle(bundle, name):
    rewrite(bundle, ["files", name], RECORD)
    refused("inspect", bundle, says="which is not a path inside the bundle", where=bundle)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((["files", "tokenizer.json"], value) for value in (DROP, None, 3, {}, [], RECORD, {**RECORD, "bytes": "x"})),
        (["files", "gone"], RECORD),
        *(([key], DROP) for key in ("recipe", "limits", "model", "plan", "pictures", "positions", "parts", "groups")),
        *(([key], 3) for key in ("engines", "files", "recipe", "model", "parts", "groups")),
        *((["parts", "vision", "inputs"], value) for value in (DROP, None, [3], [{}])),
        *((["parts", "vision", "inputs", 0, "meaning"], value) for value in (3, None)),
        (["parts", "vision", "files", "fp32"], "onnx/gone.onnx"),
        (["engines", "ort-cpu", "files", "vision"], "../x"),
        (["engines", "ort-cpu", "dtype"], 3),
        (["engines", "ort-cpu", "target"], DROP),
    ],
)
def test_contracts_that_contradict_themselves(bundle, path, value):
    rewrite(bundle, path, value)
    for words in commands(bundle):
        refused(*words, says="")


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (["model", "hidden_size"], (DROP, 0, -1, 10**30, "x", 1.5, True)),
        (["model", "kv_heads"], (0, 10**9)),
        (["model", "eos_token_ids"], (None, 3, ["x"])),
        (["model", "image_token_id"], (-1, "x", 2)),
        (["pictures", 0, "tokens"], (0, 10**30, 10**9, 63)),
        (["positions"], ("x",)),
        (["limits", "batch"], (0, "x")),
        (["limits", "length"], (0, 3, None)),
        (["groups"], ([], [3], [{"layers": [0]}], [{"layers": [0, 10**9]}], [{"layers": [4, 0]}])),
        (["pictures", 0, "preprocess", "mean"], (None, [1, 2], ["a", "b", "c"])),
        (["pictures", 0, "preprocess", "std"], ([0, 0, 0], [1e999, 1, 1])),
        (
            ["pictures", 0, "preprocess", "size"],
            ({}, 3, {"height": 10**9, "width": 10**9}, {"height": 48, "width": 48}),
        ),
        (["pictures", 0, "preprocess", "crop"], (3, [1], [1, 2, 3], [-1, 96])),
        (["pictures", 0, "preprocess", "resample"], (99, "x", None)),
        (["parts"], ({},)),
    ],
)
def test_contracts_that_no_engine_can_keep(bundle, path, values):
    for value in values:
        rewrite(bundle, path, value)
        refused("run", bundle, "--image", bundle / "parity/shapes-1.png", *ASK, says="")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperature", "-1"], "temperature -1.0: must be 0 (greedy) or a positive number"),
        (["--temperature", "nan"], "temperature nan"),
        (["--temperature", "x"], "'x' is not a valid float. (see tp-export run --help)"),
        (["--top-p", "0"], "top_p 0.0: must be above 0 and at most 1"),
        (["--top-p", "1.1"], "top_p 1.1"),
        (["--seed", "-1"], "seed -1: must not be negative"),
        (["--max-new-tokens", "0"], "0 is not in the range x>=1"),
        (["--target", "abacus"], "the bundle has no engines for abacus; it has ort-cpu, ov-cpu, trt-rtx"),
        (["--target", "../x"], "the bundle has no engines for ../x"),
        (["--prompt", "what " * 600], "too long"),
        (["--prompt", "what " * 10**6], "it writes more than"),
        (["--prompt", "<image> what ?"], "a prompt has 1 image token(s) but 0 picture(s): write one per picture"),
        (["--prompt", "a\udcffb"], "the prompt is not valid text: write it in UTF-8"),
    ],
)
def test_questions(demo_bundle, words, says):
    refused("run", demo_bundle, "--prompt", "what ?", *words, says=says)


def test_too_many_pictures(demo_bundle):
    pictures = ["--image", demo_bundle / "parity/shapes-1.png"] * 12
    refused("run", demo_bundle, *pictures, *ASK, says="too long: 779 rows, 511 are left of 512")


def test_pictures_that_are_none(demo_bundle, tmp_path, capfd):
    whole = (demo_bundle / "parity/shapes-1.png").read_bytes()
    (tmp_path / "text").write_text("not a picture")
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "header").write_bytes(whole[:40])
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "enormous", "PNG")
    for name in ("text", "half", "header", "empty", "fifo", "enormous", "gone", "."):
        refused("run", demo_bundle, "--image", tmp_path / name, *ASK, says="", where=tmp_path / name)
    refused("run", demo_bundle, "--image", "/dev/zero", *ASK, says="not a file")
    assert capfd.readouterr() == ("", "")


def test_a_good_question_is_still_answered(demo_bundle):
    code, answer, said = run("run", demo_bundle, "--image", demo_bundle / "parity/shapes-1.png", *ASK)
    assert (code, answer, said) == (0, "yellow\n", "")
