"""Configurations that cannot be: each is one line that names file and value, before anything is traced."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.exporter.mistakes import DROP, EXPORT, configure, copy_checkpoint, refused

PARTS = ("text_config", "vision_config")
SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
PROCESSOR, GENERATION = "preprocessor_config.json", "generation_config.json"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A copy of the demo checkpoint; whatever happens to it, nothing appears beside it."""
    monkeypatch.chdir(tmp_path)
    yield copy_checkpoint(tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def wrong(checkpoint, name, says, **changes):
    configure(checkpoint, name, **changes)
    refused(*EXPORT, "--model", checkpoint, where=f"{checkpoint / name}: ", says=says)


@pytest.mark.parametrize("name", ["config.json", PROCESSOR, GENERATION, "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("\udcff", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "is nested more than 64 levels deep"),
        ("[]", "is not a JSON object"),
        ('"x"', "is not a JSON object"),
        (" " * (64 * 2**20 + 1), "is too large"),
    ],
)
def test_files_that_hold_no_object(checkpoint, name, content, says):
    (checkpoint / name).write_text(content, errors="surrogateescape")
    refused(*EXPORT, "--model", checkpoint, says=f"{checkpoint / name} {says}")


def test_a_directory_without_config(checkpoint):
    (checkpoint / "config.json").unlink()
    refused(*EXPORT, "--model", checkpoint, says=f"{checkpoint} is not a checkpoint: it has no config.json")
    (checkpoint / "config.json").mkdir()
    refused(*EXPORT, "--model", checkpoint, says="it has no config.json")


@pytest.mark.parametrize("named", [["BertModel"], "LlavaForConditionalGeneration", DROP, None, [], [{}], [None, 3]])
def test_architectures(checkpoint, named):
    configure(checkpoint, architectures=named)
    says = "which is not supported; supported: [LlamaForCausalLM, LlavaForConditionalGeneration, "
    refused(*EXPORT, "--model", checkpoint, says=says)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [-1, 0, 10**9, 10**30, "160", 1.5, None, True, [1]])
def test_sizes(checkpoint, part, size, value):
    wrong(checkpoint, "config.json", "", **{f"{part}__{size}": value})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        *(("text_config__model_type", kind, "text_config.model_type is") for kind in ("mistral", "qwen2", "zzz", 3)),
        ("vision_config__model_type", "siglip_vision_model", "supported: clip_vision_model"),
        ("model_type", "mistral", "model_type is 'mistral'; supported: llava"),
        *((part, value, "transformers refuses it") for part in PARTS for value in ("x", [])),
        ("text_config__num_attention_heads", 7, "The hidden size (160) is not a multiple"),
        ("vision_config__num_attention_heads", 7, "multiple"),
        *(("text_config__num_key_value_heads", value, "") for value in (-1, 0, 2, 10, "x")),
        *(("text_config__head_dim", value, "") for value in (-1, 0, 31, "x")),
        *(("text_config__vocab_size", value, "") for value in (-1, 0, 10**9, "x", None)),
        *(("text_config__max_position_embeddings", value, "") for value in (-1, 0, 10**30, "x", None)),
        *(("vision_config__patch_size", value, "") for value in (0, -8, 7, 97, "8", None, 1.5)),
        *(("vision_config__image_size", value, "") for value in (0, -96, 97, 10**9, "96", None)),
        *(("vision_config__num_channels", value, "vision_config.num_channels is") for value in (0, 1, 4)),
        *(("image_token_index", value, "image_token_id is") for value in (DROP, -1, 68, 10**9)),
        *(("image_token_index", value, "") for value in ("4", None, 4.5)),
        *(("vision_feature_layer", value, "vision_feature_layer is") for value in (0, -99, 1, [1, 2], [-2])),
        *(("vision_feature_select_strategy", value, "vision_feature_select_strategy") for value in ("full", "x", 3)),
        *(("text_config__hidden_act", value, "text_config.hidden_act") for value in ("zzz",)),
        *(("vision_config__hidden_act", value, "vision_config.hidden_act") for value in ("zzz",)),
        *(("projector_hidden_act", value, "projector_hidden_act") for value in ("zzz", None, 3)),
        *(("text_config__rms_norm_eps", value, "rms_norm_eps") for value in (-1.0, "x", None)),
        *(("vision_config__layer_norm_eps", value, "layer_norm_eps") for value in (-1.0, "x", None)),
        *(("text_config__eos_token_id", value, "") for value in ("x", [2, "x"], {}, 1.5)),
        *(("text_config__pad_token_id", value, "") for value in ("x", 10**9, [2])),
        ("quantization_config", {"quant_method": "x"}, "quantization_config is set"),
        ("dtype", "zzz", "transformers refuses it"),
        ("id2label", 3, "transformers refuses it"),
    ],
)
def test_values(checkpoint, key, value, says):
    wrong(checkpoint, "config.json", says, **{key: value})


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rope", "says"),
    [
        ("x", "transformers refuses it"),
        ({"rope_type": "zzz"}, "rope_type is 'zzz'; supported: default, linear, llama3, yarn"),
        ({"rope_type": "dynamic", "factor": 2.0}, "rope_type is 'dynamic'"),
        ({"rope_type": "yarn"}, "transformers refuses it"),
        ({"rope_type": "linear", "factor": -1}, "rope_parameters.factor is -1, not a positive number"),
        ({"rope_type": "linear", "factor": "x"}, "rope_parameters.factor is 'x'"),
        ({"rope_type": "default", "rope_theta": 0}, "rope_parameters.rope_theta is 0"),
        ({"rope_type": "default", "rope_theta": "x"}, ""),
    ],
)
def test_rotations(checkpoint, key, rope, says):
    configure(checkpoint, text_config__rope_parameters=DROP)
    wrong(checkpoint, "config.json", says, **{f"text_config__{key}": rope})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("image_mean", DROP, "image_mean is missing"),
        ("image_std", DROP, "image_std is missing"),
        *(("image_mean", value, "not three numbers") for value in (None, [1, 2], "x", ["a", "b", "c"], [1e999, 0, 0])),
        ("image_std", [0, 1, 1], "every number must be positive"),
        *(("size", value, "") for value in ("x", [], {}, None, {"height": 96}, {"longest_edge": 96})),
        *(("size", {"height": value, "width": 96}, "size.height is") for value in (-1, 0, 10**9, "96")),
        *(("resample", value, "resample is") for value in (99, "x", None)),
        *(("rescale_factor", value, "rescale_factor is") for value in (0, "x", None)),
        *((step, False, f"{step} is False; supported: True") for step in ("do_resize", "do_rescale", "do_normalize")),
        ("do_center_crop", "x", "do_center_crop is 'x'"),
        *(("image_processor_type", value, "") for value in ("SiglipImageProcessor", "Evil", 3)),
    ],
)
def test_processors(checkpoint, key, value, says):
    wrong(checkpoint, PROCESSOR, says, **{key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 96}},
        {"size": {"height": 48, "width": 96}},
        {"size": DROP},
        {"do_center_crop": True},
        {"do_center_crop": True, "crop_size": 48},
    ],
)
def test_a_processor_for_another_tower(checkpoint, changes):
    configure(checkpoint, PROCESSOR, **changes)
    refused(*EXPORT, "--model", checkpoint, says="config.json wants (96, 96) (height, width)")


@pytest.mark.parametrize("value", ["x", [2, -1], 68, {}, 1.5, True])
def test_stop_tokens(checkpoint, value):
    wrong(checkpoint, GENERATION, "eos_token_id is", eos_token_id=value)


def test_a_generation_config_that_transformers_refuses(checkpoint):
    wrong(checkpoint, GENERATION, "transformers refuses it", cache_implementation="zzz")


def test_a_budget_that_tensorrt_cannot_build(checkpoint):
    """640 pixels are 6400 patches; TensorRT's TopK ends at 3840, ONNX Runtime's does not."""
    configure(checkpoint, vision_config__image_size=640, text_config__max_position_embeddings=8192)
    configure(checkpoint, PROCESSOR, size={"height": 640, "width": 640})
    weights = load_file(checkpoint / "model.safetensors")
    weights["vision_tower.embeddings.position_embedding.weight"] = np.zeros((6401, 160), np.float16)
    save_file(weights, checkpoint / "model.safetensors")
    words = ("--method", "fastervlm", "--model", checkpoint, "--max-length", "8000", "--keep")
    limit = "TensorRT's TopK takes at most 3840; keep fewer, or use --target ort-cpu"
    refused(*words, "3841", "--target", "trt-rtx", says=f"--keep 3841: {limit}")
    refused(*words, "3841", "--target", "ort-cpu", "--target", "trt-rtx:sm89", says=limit)
    refused(*words, "6401", "--target", "ort-cpu", says="an image has 6400 patches")


def test_positions_that_pictures_fill(checkpoint):
    configure(checkpoint, text_config__max_position_embeddings=64)
    refused(*EXPORT, "--model", checkpoint, says="pictures and a question take")


def test_no_code_of_a_checkpoint_runs(checkpoint, monkeypatch):
    mapped = dict.fromkeys(("AutoConfig", "AutoImageProcessor", "AutoModel", "AutoTokenizer"), "evil.Evil")
    (checkpoint / "evil.py").write_text("raise SystemExit('evil')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for name in ("config.json", PROCESSOR, "tokenizer_config.json"):
        configure(checkpoint, name, auto_map=mapped)
    wrong(checkpoint, PROCESSOR, "image_processor_type is 'Evil'", image_processor_type="Evil")
    assert json.loads((checkpoint / PROCESSOR).read_text())["auto_map"] == mapped
