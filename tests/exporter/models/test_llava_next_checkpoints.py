"""Checkpoints of LLaVA-NeXT: every layout of names, what is refused in one line, the real ones' sizes."""

import pytest
import torch
from transformers import LlavaNextConfig

from exporter.attention import register
from exporter.budget import Budget
from exporter.checkpoint import open_checkpoint
from exporter.form import Asked
from exporter.models.llava_next import LlavaNext
from exporter.parts.base import Job
from exporter.parts.vision import VisionPart
from exporter.plan import make_plan, tokens_after
from exporter.registry import method
from exporter.trace import fake_model
from exporter.weights import match
from tests.exporter.mistakes import DROP, configure, refused
from tests.exporter.models.tiny_llava_next import LAYOUTS, tiny_model, write
from tests.exporter.tiny_llava import renamed


@pytest.fixture
def checkpoint(tmp_path):
    """To be damaged."""
    write(tmp_path, tiny_model())
    return tmp_path


@pytest.mark.parametrize("text", ["llama", "mistral"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_of_names_gives_every_parameter_its_own_tensor(tmp_path, layout, text):
    model = tiny_model(text)
    write(tmp_path, model, layout)
    assert LlavaNext.load_config(tmp_path).text_config.model_type == text
    found = match(LlavaNext(model.config, model), open_checkpoint(tmp_path))
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert LlavaNext.module_key(renamed(name, layout)) == name
        raw = (tmp_path / found[name].file).read_bytes()[found[name].offset :][: found[name].nbytes]
        assert torch.equal(torch.frombuffer(bytearray(raw), dtype=torch.float16), parameter.half().flatten()), name
    stock = LlavaNext.reference(tmp_path)
    assert all(torch.equal(value, dict(stock.named_parameters())[name].half()) for name, value in halves(model))


def halves(model):
    return [(name, parameter.half()) for name, parameter in model.named_parameters()]


def test_what_transformers_saves_is_read(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    found = match(LlavaNext(model.config, model), open_checkpoint(tmp_path))
    assert found.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"image_grid_pinpoints": [[13, 24]]}, "image_grid_pinpoints holds [13, 24]: each must be"),
        ("config.json", {"image_grid_pinpoints": [[24]]}, "image_grid_pinpoints holds [24]"),
        ("config.json", {"image_grid_pinpoints": []}, "image_grid_pinpoints must hold resolutions"),
        ("config.json", {"image_grid_pinpoints": [[1200, 1200]]}, "of at most 64 tiles"),
        ("config.json", {"text_config__model_type": "qwen2"}, "text_config.model_type is 'qwen2'; supported: llama"),
        ("config.json", {"vision_feature_select_strategy": "full"}, "supported: default"),
        ("config.json", {"vision_feature_layer": [-2, -3]}, "vision_feature_layer is [-2, -3]"),
        ("config.json", {"image_token_index": 9999}, "image_token_id is 9999"),
        ("preprocessor_config.json", {"image_grid_pinpoints": [[24, 24]]}, "differs from config.json's"),
        ("preprocessor_config.json", {"do_center_crop": False}, "do_center_crop is false"),
        ("preprocessor_config.json", {"crop_size": 24}, "makes pictures of (24, 24)"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, "LlavaNextImageProcessor"),
    ],
)
def test_checkpoints_that_it_cannot_export(checkpoint, file, changes, says):
    configure(checkpoint, file, **changes)
    refused("--model", checkpoint, "--method", "none", "--target", "ort-cpu", says=says)


def test_a_mistral_that_forgets_is_refused(tmp_path):
    write(tmp_path, tiny_model("mistral"))
    configure(tmp_path, text_config__sliding_window=8)
    refused("--model", tmp_path, "--method", "none", says="text_config.sliding_window is 8; supported: None")
    configure(tmp_path, text_config__sliding_window=DROP)  # transformers then takes 4096
    refused("--model", tmp_path, "--method", "none", says="text_config.sliding_window is 4096")


def real(text):
    """Configs as the hub has them: v1.6 vicuna 7B and 13B, mistral 7B."""
    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, "hidden_size": 1024}
    vision |= {"intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "projection_dim": 768}
    texts = {
        "7b": {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
        "13b": {"model_type": "llama", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40},
        "mistral": {"model_type": "mistral", "hidden_size": 4096, "num_key_value_heads": 8, "sliding_window": None},
    }
    texts["7b"] |= {"intermediate_size": 11008}
    texts["13b"] |= {"intermediate_size": 13824}
    return LlavaNextConfig(vision_config=vision, text_config={**texts[text], "vocab_size": 32064})


@pytest.mark.parametrize(("name", "width"), [("7b", 4096), ("13b", 5120), ("mistral", 4096)])
@pytest.mark.parametrize(("grid", "rows"), [("1x2", 1752), ("2x2", 2928), ("3x1", 2376)])
def test_real_sizes(name, width, grid, rows):
    """Plans and shapes, without a single weight: 640, 320 and 160 of 2880 are the papers' budgets."""
    own, mode = fake_model(LlavaNext, real(name), "fp16", register())
    own = own.of(LlavaNext.forms(own.config, Asked(grids=(grid,)))[0])
    views, pixels = own.form.views, torch.zeros(1, *own.pixels, dtype=torch.float16)
    reducer = method("fastervlm")
    stages = make_plan("fastervlm", reducer, own.shape(1), Budget("5%"))
    for plan, count in (((), rows), (stages, 29 * views)):
        assert tokens_after(plan, own.shape(1)) + (0 if plan else own.added) == count
        with mode, torch.no_grad():
            embeds, kept = VisionPart(Job(own, reducer if plan else method("none"), plan))(mode.from_tensor(pixels))
        assert embeds.shape == (1, count, width)
        assert kept.shape == (1, count)
    costs = own.geometry(29 * views)
    assert (costs.views, costs.tower_tokens, costs.tower_layers, costs.d) == (views, 577, 23, width)
