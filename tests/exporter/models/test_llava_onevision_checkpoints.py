"""Checkpoints of LLaVA-OneVision: every layout of names, what is refused in one line, the real ones' sizes."""

import pytest
import torch
from transformers import LlavaOnevisionConfig

from engines.errors import UserError
from exporter.budget import Budget
from exporter.checkpoint import open_checkpoint
from exporter.draft import Draft
from exporter.form import Asked, Form
from exporter.models.llava_onevision import LlavaOnevision
from exporter.plan import make_plan, tokens_after
from exporter.recipe import Recipe
from exporter.reducer import Grid
from exporter.registry import method
from exporter.weights import match
from tests.exporter.mistakes import configure, refused
from tests.exporter.models.looks import every_tensor_finds_its_parameter, uncut_on_meta
from tests.exporter.models.tiny_llava_onevision import LAYOUTS, tiny_model, write

SIDE = 13


@pytest.fixture
def checkpoint(tmp_path):
    """To be damaged."""
    write(tmp_path, tiny_model())
    return tmp_path


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_of_names_gives_every_parameter_its_own_tensor(tmp_path, layout):
    model = tiny_model()
    write(tmp_path, model, layout)
    every_tensor_finds_its_parameter(LlavaOnevision, tmp_path, model, layout)


def test_what_transformers_saves_is_read(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    found = match(LlavaOnevision(model.config, model), open_checkpoint(tmp_path))
    assert found.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"vision_feature_select_strategy": "default"}, "select_strategy is 'default'; supported: full"),
        ("config.json", {"vision_feature_layer": [-2, -3]}, "vision_feature_layer is [-2, -3]"),
        ("config.json", {"vision_aspect_ratio": "anyres_max_4"}, "vision_aspect_ratio is 'anyres_max_4'"),
        ("config.json", {"vision_config__model_type": "clip_vision_model"}, "supported: siglip_vision_model"),
        ("config.json", {"text_config__model_type": "llama"}, "text_config.model_type is 'llama'; supported: qwen2"),
        ("config.json", {"text_config__use_sliding_window": True}, "use_sliding_window is True; supported: False"),
        ("config.json", {"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
        ("config.json", {"video_token_index": 9999}, "video_token_id is 9999"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, "LlavaOnevisionImageProcessor"),
        ("preprocessor_config.json", {"size": {"height": 24, "width": 24}}, "makes pictures of (24, 24)"),
    ],
)
def test_checkpoints_that_it_cannot_export(checkpoint, file, changes, says):
    configure(checkpoint, file, **changes)
    refused("--model", checkpoint, "--method", "none", "--target", "ort-cpu", says=says)


def test_resolutions_that_tiles_do_not_fill_are_refused_where_tiles_are_asked_for(checkpoint):
    configure(checkpoint, image_grid_pinpoints=[[SIDE, SIDE + 1]])
    assert Draft.of(Recipe(str(checkpoint), "none", targets=("ort-cpu",))).tokens == 10
    with pytest.raises(UserError, match="image_grid_pinpoints holds"):
        Draft.of(Recipe(str(checkpoint), "none", grids=("1x1",)))


def real():
    """llava-hf/llava-onevision-qwen2-7b-ov-hf as the hub has it."""
    vision = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, "hidden_size": 1152}
    vision |= {"intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 26, "vision_use_head": False}
    text = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28}
    text |= {"num_hidden_layers": 28, "num_key_value_heads": 4, "vocab_size": 152000, "sliding_window": 131072}
    points = [[384 * rows, 384 * cols] for rows in range(1, 7) for cols in range(1, 7)]
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config={**text, "use_sliding_window": False, "rope_theta": 1000000.0},
        image_token_index=151646,
        video_token_index=151647,
        image_grid_pinpoints=points,
    )


@pytest.mark.parametrize(
    ("asked", "dense", "keep", "cut"),
    [
        ({}, 730, "25%", 182),
        ({"grids": ("2x2",)}, 5 * 729 + 54, "25%", 911),
        ({"input": "video"}, 32 * 196 + 1, "10%", 627),
    ],
)
def test_real_sizes(asked, dense, keep, cut):
    """Plans and shapes, without a single weight."""
    config = real()
    [shown] = LlavaOnevision.forms(config, Asked(**asked))
    own = LlavaOnevision(config, torch.nn.Module(), shown)
    shape = own.shape(1)
    stages = make_plan("divprune", method("divprune"), shape, Budget(keep))
    assert (shape.tower_last, shape.tokens + own.added, tokens_after(stages, shape)) == (25, dense, cut)
    assert (own.seen, shape.has_cls, shape.video, shape.pooled) == (729, False, *[shown.kind == "video"] * 2)
    assert uncut_on_meta(LlavaOnevision, config, shown) == [(1, dense, 3584), (1, dense)]
    costs = own.geometry(cut)
    assert (costs.views, costs.tower_tokens, costs.tower_layers, costs.d, costs.d_kv) == (
        shown.views,
        729,
        26,
        3584,
        512,
    )


def test_more_than_nine_tiles_are_not_offered():
    with pytest.raises(UserError, match="--grid 5x2: the checkpoint allows 1x1, 1x2"):
        LlavaOnevision.forms(real(), Asked(grids=("5x2",)))
    assert LlavaOnevision.forms(real(), Asked(grids=("1x6", "3x3")))[1].views == 10


def test_frames_are_pooled_to_half_their_rows_and_columns():
    own = LlavaOnevision(real(), torch.nn.Module(), Form(kind="video", size=(384, 384), views=4))
    assert (own.shape(1).grid, own.shape(1).patches, own.pooling.shape) == (Grid(14, 14), 196, (196, 729))
