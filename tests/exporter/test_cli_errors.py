"""A user's mistakes: each is one clear line and exit code 2, without a traceback, and nothing is written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from exporter.cli import main
from exporter.demo import demo_checkpoint

EXPORT = ["--method", "fastervlm", "--keep", "64", "--target", "ort-cpu"]


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; returns its exit code and what it said of its end."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words):
        before = sorted(work.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["tp-export", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr().err
        assert sorted(work.rglob("*")) == before, "something was written"
        assert said.count("\n") == 1
        assert "Traceback" not in said
        return left.value.code, said

    return run


def refused(result, says):
    code, said = result
    assert code == 2, said
    assert said.startswith("tp-export: ")
    assert says in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "fastervml", "--keep", "64"], "did you mean fastervlm?"),
        (["--method", "zzz", "--keep", "64"], "there are: fastervlm, none"),
        (["--method", "fastervlm"], "give a budget with --keep"),
        (["--keep", "64"], "--method is missing"),
        (["--method", "none", "--keep", "64"], "leave --keep out"),
        *((["--method", "fastervlm", f"--keep={keep}"], "nothing would be kept") for keep in ("0", "-1", "0.0", "0%")),
        *((["--method", "fastervlm", "--keep", keep], "not a number") for keep in ("abc", "", "1e3", "nan", "6 4")),
        *((["--method", "fastervlm", "--keep", keep], "an image has 144 patches") for keep in ("145", "101%", "1.5")),
        ([*EXPORT, "--model", "/nowhere"], "is no directory here"),
        ([*EXPORT, "--target", "cuda"], "unknown target 'cuda'"),
        (["--method", "fastervlm", "--keep", "64", "--target", "trt-rtx:sm99"], "unknown GPU 'sm99'"),
        ([*EXPORT, "--target", "ort-cpu"], "target named twice"),
        ([*EXPORT, "--gpu", "abacus"], "unknown GPU 'abacus'"),
        ([*EXPORT, "--dtype", "bf16"], "bf16"),
        ([*EXPORT, "--dtype", "int3"], "int3"),
        ([*EXPORT, "--max-batch", "0"], "max-batch"),
        ([*EXPORT, "--max-length", "5"], "--max-length 5"),
        ([*EXPORT, "--max-length", "1000000000"], "--max-length 1000000000"),
        ([*EXPORT, "--images", "0"], "images"),
        ([*EXPORT, "--param", "nonsense"], "write it as NAME=VALUE"),
        ([*EXPORT, "--param", "a=b"], "has no such parameter"),
        ([*EXPORT, "--colour"], "--colour"),
        ([*EXPORT, "check", "x"], "belongs to an export"),
        (["check", "/nowhere"], "is not a bundle"),
        (["methods", "nope"], "no such method"),
    ],
)
def test_options(say, words, says):
    refused(say(*words), says)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(demo_checkpoint("demo"), folder)
    return folder


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        section = config
        for key in outer:
            section = section[key]
        section[last] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["BertModel"]}, "supported: [LlavaForConditionalGeneration]"),
        ({"vision_config": "x"}, "vision_config"),
        ({"text_config__model_type": "mistral"}, "mistral"),
        ({"text_config__hidden_size": -1}, "hidden size (-1)"),
        ({"text_config__num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"text_config__num_attention_heads": 0}, "config.json: transformers refuses it"),
        ({"text_config__intermediate_size": 321}, "config.json says [321, 160]"),
        ({"vision_config__patch_size": 0}, "patch_size"),
        ({"vision_config__image_size": 97}, "image_size"),
        ({"vision_feature_layer": -99}, "vision_feature_layer"),
        ({"image_token_index": 10**6}, "image_token"),
    ],
)
def test_configs(say, checkpoint, changes, says):
    configure(checkpoint, **changes)
    refused(say(*EXPORT, "--model", checkpoint), says)


def test_a_budget_that_tensorrt_cannot_build(say, checkpoint):
    """640 pixels are 6400 patches; TensorRT's TopK ends at 3840, ONNX Runtime's does not."""
    configure(checkpoint, vision_config__image_size=640, text_config__max_position_embeddings=8192)
    weights = load_file(checkpoint / "model.safetensors")
    weights["vision_tower.embeddings.position_embedding.weight"] = np.zeros((6401, 160), np.float16)
    save_file(weights, checkpoint / "model.safetensors")
    words = ["--method", "fastervlm", "--keep", "3841", "--model", checkpoint, "--max-length", "8000"]
    refused(say(*words, "--target", "trt-rtx"), "TensorRT's TopK takes at most 3840")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "config.json"),
        ("config.json", b"{", "config.json"),
        ("config.json", b"[" * 100_000, "config.json"),
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", b"{}", "tokenizer.json"),
        ("preprocessor_config.json", None, "preprocessor_config.json"),
        ("preprocessor_config.json", b"{}", "preprocessor_config.json"),
        ("chat_template.jinja", b"{% for i in range(10**12) %}x{% endfor %}", "template"),
        ("chat_template.jinja", b"{{ ''.__class__.__mro__ }}", "template"),
        ("generation_config.json", b"[]", "generation_config.json"),
        ("model.safetensors", None, "model.safetensors"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0notjson!", "safetensors"),
    ],
)
def test_files(say, checkpoint, name, content, says):
    (checkpoint / name).unlink()
    if content is not None:
        (checkpoint / name).write_bytes(content)
    refused(say(*EXPORT, "--model", checkpoint), says)


def test_pickles_are_not_opened(say, checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    refused(say(*EXPORT, "--model", checkpoint), "safe_serialization=True")


def test_a_truncated_shard(say, checkpoint):
    os.truncate(checkpoint / "model.safetensors", 1_000_000)
    refused(say(*EXPORT, "--model", checkpoint), "is truncated")


def test_a_directory_that_is_no_bundle_is_left_alone(say, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    for force in ([], ["--force"]):
        refused(say(*EXPORT, "-o", tmp_path / "mine", *force), "is not a bundle")
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"
    refused(say(*EXPORT, "-o", tmp_path / "mine/letter.txt/bundle"), "cannot write")


@pytest.fixture
def bundle(demo_bundle, tmp_path):
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    "name", ["onnx/vision.fp32.onnx", "onnx/model.safetensors", "engines/trt-rtx/vision.plan", "tokenizer.json"]
)
def test_an_altered_bundle_is_refused(say, bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    for words in (["check", bundle], ["run", bundle, "--prompt", "what ?"], ["inspect", bundle]):
        refused(say(*words), name)


def test_an_existing_bundle_needs_force(say, bundle):
    refused(say(*EXPORT, "-o", bundle), "--force")
    refused(say(*EXPORT, "-o", bundle, "--force", "--model", "/nowhere"), "is no directory here")
    assert (bundle / "bundle.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prompt", "what ?", "--temperature", "-1"], "temperature"),
        (["--prompt", "what ?", "--top-p", "0"], "top_p"),
        (["--prompt", "what ?", "--target", "abacus"], "abacus"),
        (["--prompt", "what " * 600], "too long"),
        (["--prompt", "what ?", "--image", "nothing.png"], "nothing.png"),
        (["--prompt", "what ?", "--image", "."], "."),
    ],
)
def test_run(say, demo_bundle, words, says):
    refused(say("run", demo_bundle, *words), says)


def test_pictures_that_are_none(say, demo_bundle, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "enormous.png")
    for name in ("text.png", "half.png", "enormous.png"):
        refused(say("run", demo_bundle, "--prompt", "what ?", "--image", tmp_path / name), name)


@pytest.mark.parametrize("seconds", [2.5, 5.0, 8.0])
def test_a_killed_export_leaves_nothing_and_the_next_one_succeeds(tmp_path, seconds):
    code = "from exporter.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, *EXPORT, "-o", str(tmp_path / "out")]
    export = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)
    os.killpg(export.pid, signal.SIGKILL)
    export.wait()
    assert not (tmp_path / "out").exists() or (tmp_path / "out/bundle.json").is_file()
    done = subprocess.run([*command, "--force"], check=True, capture_output=True, text=True)
    assert done.stderr == "", "an export has nothing to complain of"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_export_ends_in_one_line(tmp_path):
    code = "from exporter.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, *EXPORT, "-o", str(tmp_path / "out")]
    for number in (signal.SIGTERM, signal.SIGINT):
        export = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert export.stdout.readline().startswith("[ 1/")
        export.send_signal(number)
        _, said = export.communicate(timeout=60)
        assert export.returncode == 130
        assert said.strip() == "tp-export: interrupted; what was there before is untouched"
        assert not list(tmp_path.iterdir())
