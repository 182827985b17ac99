"""Qwen2.5-VL checkpoints: names of tensors, sizes of pictures, and everything that can be wrong with the files."""

import json

import pytest
import torch
from safetensors.torch import load_file

from engines.errors import UserError
from exporter.attention import register
from exporter.checkpoint import open_checkpoint
from exporter.draft import Draft
from exporter.form import Asked
from exporter.models.qwen2_5_vl import Qwen25VL
from exporter.qwen_processor import picture_size
from exporter.recipe import Recipe
from exporter.trace import fake_model
from exporter.weights import match
from tests.exporter.mistakes import DROP, configure
from tests.exporter.models.tiny_qwen2_5_vl import IMAGE, LAYOUTS, tiny_config, tiny_model, write


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_tensor_finds_its_parameter(tmp_path, layout, tied):
    model = tiny_model(tied=tied)
    write(tmp_path, model, LAYOUTS[layout], torch.float32)
    stored = {name: value for file in tmp_path.glob("*.safetensors") for name, value in load_file(file).items()}
    named = dict(model.named_parameters())
    assert {Qwen25VL.module_key(name) for name in stored} == set(named)
    assert all(torch.equal(value, named[Qwen25VL.module_key(name)]) for name, value in stored.items())
    family, _ = fake_model(Qwen25VL, Qwen25VL.load_config(tmp_path), "fp32", register())
    assert set(match(family, open_checkpoint(tmp_path))) >= set(named)
    assert torch.equal(Qwen25VL.reference(tmp_path).lm_head.weight, model.lm_head.weight)


def test_the_hub_s_config_says_the_same(tmp_path):
    write(tmp_path, tiny_model())
    found, wanted = Qwen25VL.load_config(tmp_path), tiny_config()
    for part in ("text_config", "vision_config"):
        told, own = getattr(found, part).to_dict(), getattr(wanted, part).to_dict()
        told["rope_parameters"].pop("type", None)
        assert {key: value for key, value in told.items() if own[key] != value} in ({}, {"dtype": told["dtype"]})
    assert found.image_token_id == IMAGE


def test_facts_of_a_draft(tmp_path):
    write(tmp_path, tiny_model())
    draft = Draft.of(Recipe(model=str(tmp_path), method="random", keep="10%", targets=("ort-cpu",), image_size="60x44"))
    assert draft.main.form.size == (48, 64)  # 5.5 and 7.5 cells of 8 pixels, halves to the even number
    assert (draft.facts.kv_heads, draft.facts.head_dim, draft.facts.layers) == (1, 12, 3)
    assert (draft.shape.patches, draft.shape.global_layers, draft.shape.has_cls) == (48, (1, 3), False)
    assert draft.tokens == 5


@pytest.mark.parametrize(
    ("asked", "bounds", "wanted"),
    [
        (None, (3136, 12845056), (448, 448)),
        (None, (3136, 100_000), (308, 308)),
        ("640x480", (3136, 12845056), (476, 644)),
        ("10x10", (3136, 12845056), (56, 56)),
        ("1000x300", (3136, 100_000), (168, 560)),
    ],
)
def test_sizes_are_those_the_processor_makes(asked, bounds, wanted):
    assert picture_size(asked, 28, bounds) == wanted


def test_a_preprocessor_s_bounds_hold_for_the_default(tmp_path):
    write(tmp_path, tiny_model())
    configure(tmp_path, "preprocessor_config.json", min_pixels=DROP, max_pixels=DROP)
    configure(tmp_path, "preprocessor_config.json", size={"shortest_edge": 64, "longest_edge": 1024})
    config = Qwen25VL.load_config(tmp_path)
    assert [form.size for form in Qwen25VL.forms(config, Asked())] == [(32, 32)]


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"image_size": "448"}, "--image-size 448: write two numbers"),
        ({"image_size": "4096x16"}, "one side is more than 200 times the other"),
        ({"input": "video"}, "--input video: Qwen2.5-VL takes pictures only"),
        ({"grids": ("2x2",)}, "--grid: Qwen2.5-VL has no choice there"),
        ({"frames": 4}, "--frames: Qwen2.5-VL has no choice there"),
    ],
)
def test_options_it_cannot_take(tmp_path, recipe, says):
    write(tmp_path, tiny_model())
    with pytest.raises(UserError, match=says) as caught:
        Draft.of(Recipe(model=str(tmp_path), method="none", targets=("ort-cpu",), **recipe))
    assert "\n" not in str(caught.value)


CONFIGS = [
    ({"vision_config__depth": 0}, "vision_config.depth is 0"),
    ({"vision_config__patch_size": [4, 4]}, "vision_config.patch_size is "),
    ({"vision_config__spatial_merge_size": 3}, "vision_config.spatial_merge_size is 3; supported: 2"),
    ({"vision_config__num_heads": 3}, "vision_config.hidden_size is 16, not a multiple of num_heads 3"),
    ({"vision_config__num_heads": 8}, "heads whose width is no multiple of 4"),
    ({"vision_config__window_size": 7}, "vision_config.window_size is 7, less than two patches"),
    ({"vision_config__fullatt_block_indexes": []}, "vision_config.fullatt_block_indexes"),
    ({"vision_config__fullatt_block_indexes": [9]}, "vision_config.fullatt_block_indexes"),
    ({"vision_config__hidden_act": "loud"}, "vision_config.hidden_act is 'loud'"),
    ({"vision_config__out_hidden_size": 25}, "out_hidden_size is 25, the decoder's hidden_size 24"),
    ({"vision_config__in_channels": 4}, "vision_config.in_channels is 4"),
    ({"vision_config__model_type": "clip"}, "vision_config.model_type is 'clip'"),
    ({"model_type": "qwen2_vl"}, "model_type is 'qwen2_vl'"),
    ({"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
    ({"num_key_value_heads": 4}, "num_attention_heads is 2, not a multiple of num_key_value_heads 4"),
    ({"vocab_size": 0}, "text_config.vocab_size is 0"),
    ({"use_sliding_window": True}, "use_sliding_window is set"),
    ({"rope_scaling__mrope_section": [2, 2]}, "mrope_section is .2, 2., not three numbers of 6 pairs together"),
    ({"rope_scaling__mrope_section": [2, 2, 3]}, "not three numbers of 6 pairs"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ({"image_token_id": 10**6}, "image_token_id is 1000000"),
]
PROCESSORS = [
    ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type is 'CLIPImageProcessor'"),
    ({"patch_size": 14}, "patch_size is 14; supported: 4"),
    ({"merge_size": 4}, "merge_size is 4; supported: 2"),
    ({"do_resize": False}, "do_resize is False"),
    ({"min_pixels": 0}, "min_pixels is 0"),
    ({"min_pixels": 10**6}, "there are none"),
    ({"size": {"height": 4}}, "it must hold shortest_edge and longest_edge"),
    ({"image_mean": [1, 2]}, "image_mean is .1, 2., not three numbers"),
]


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [("config.json", *case) for case in CONFIGS] + [("preprocessor_config.json", *case) for case in PROCESSORS],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, name, changes, says):
    write(tmp_path, tiny_model())
    configure(tmp_path, name, **changes)
    with pytest.raises(UserError, match=says) as caught:
        Draft.of(Recipe(model=str(tmp_path), method="none", targets=("ort-cpu",), image_size="32x32"))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_preprocessor_is_named(tmp_path):
    write(tmp_path, tiny_model())
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        Draft.of(Recipe(model=str(tmp_path), method="none", targets=("ort-cpu",)))


def test_a_template_that_writes_the_picture_by_itself(tmp_path):
    """The hub's template stands in chat_template.json and writes one picture token between two marks."""
    write(tmp_path, tiny_model())
    stored = json.loads((tmp_path / "chat_template.json").read_text())
    broken = stored["chat_template"].replace("<|image_pad|>", "")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": broken}))
    with pytest.raises(UserError, match="as 0 tokens of number 305"):
        Draft.of(Recipe(model=str(tmp_path), method="none", targets=("ort-cpu",), image_size="32x32"))
