"""Video-LLaVA: each tower as transformers has it, [CLS] rows of frames, names, refusals, real sizes, a bundle."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import CLIPImageProcessorPil, VideoLlavaConfig

from engines.errors import UserError
from engines.images import open_image
from engines.session import Session
from engines.videos import open_video
from exporter.budget import Budget
from exporter.checkpoint import open_checkpoint
from exporter.draft import Draft
from exporter.export import export
from exporter.form import Asked, Form
from exporter.models.video_llava import VideoLlava
from exporter.plan import make_plan, tokens_after
from exporter.recipe import Recipe
from exporter.reference import Reference
from exporter.registry import family, method
from exporter.weights import match
from tests.exporter.mistakes import configure, refused, run
from tests.exporter.models.looks import (
    animation,
    every_tensor_finds_its_parameter,
    of_runtime,
    picture,
    uncut_in_onnxruntime,
    uncut_on_meta,
)
from tests.exporter.models.tiny_video_llava import LAYOUTS, tiny_config, tiny_model, write

IMAGE, VIDEO = 700, 702


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """For reading only."""
    folder = tmp_path_factory.mktemp("video-llava")
    write(folder, tiny_model(), dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def stock(checkpoint):
    return VideoLlava.reference(checkpoint)


def form(**asked):
    [made] = VideoLlava.forms(tiny_config(), Asked(**asked))
    return made


def draft(checkpoint, method_name="none", keep=None, **asked):
    return Draft.of(Recipe(str(checkpoint), method_name, keep, targets=("ort-cpu",), **asked))


def test_it_is_found_by_its_architecture(checkpoint):
    assert family(json.loads((checkpoint / "config.json").read_text()), "") is VideoLlava


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_of_names_gives_every_parameter_its_own_tensor(tmp_path, layout):
    model = tiny_model()
    write(tmp_path, model, layout)
    every_tensor_finds_its_parameter(VideoLlava, tmp_path, model, layout)


def test_what_transformers_saves_is_read(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert (
        match(VideoLlava(model.config, model), open_checkpoint(tmp_path)).keys()
        == dict(model.named_parameters()).keys()
    )


def test_a_video_of_eight_frames_unless_it_is_asked_for_something_else():
    assert form() == form(input="video") == Form(kind="video", size=(12, 12), views=8)
    assert form(frames=2) == Form(kind="video", size=(12, 12), views=2)
    assert form(input="image") == Form(size=(12, 12))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"frames": 1}, "--frames 1: a video has from 2 to 256 frames"),
        ({"frames": 257}, "--frames 257: a video has from 2 to 256 frames"),
        ({"grids": ("2x2",)}, "--grid: Video-LLaVA has no choice there"),
        ({"size": "8x8"}, "--image-size: Video-LLaVA has no choice there"),
        ({"input": "image", "frames": 4}, "--frames: Video-LLaVA has no choice there"),
    ],
)
def test_what_it_cannot_take(asked, says):
    with pytest.raises(UserError) as error:
        VideoLlava.forms(tiny_config(), Asked(**asked))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"vision_feature_select_strategy": "full"}, "select_strategy is 'full'; supported: default"),
        ("config.json", {"vision_feature_layer": [-2, -3]}, "vision_feature_layer is [-2, -3]"),
        ("config.json", {"vision_config__model_type": "siglip_vision_model"}, "supported: clip_vision_model"),
        ("config.json", {"text_config__model_type": "qwen2"}, "text_config.model_type is 'qwen2'; supported: llama"),
        ("config.json", {"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
        ("config.json", {"image_token_index": 9999}, "image_token_id is 9999"),
        ("config.json", {"video_token_index": 9999}, "video_token_id is 9999"),
        ("preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor"}, "VideoLlavaImageProcessor"),
        ("preprocessor_config.json", {"crop_size": 24}, "makes pictures of (24, 24)"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template"),
    ],
)
def test_checkpoints_that_it_cannot_export(tmp_path, file, changes, says):
    write(tmp_path, tiny_model())
    if "tokenizer" in file:
        (tmp_path / "chat_template.jinja").unlink()
    configure(tmp_path, file, **changes)
    refused("--model", tmp_path, "--method", "none", "--target", "ort-cpu", says=says)


def test_a_method_for_videos_does_not_take_pictures(checkpoint):
    assert draft(checkpoint, "holitom", "8", frames=3).tokens == 8
    with pytest.raises(UserError, match="it selects among the frames of a video"):
        draft(checkpoint, "holitom", "8", input="image")


def test_budgets_count_a_frames_patches_in_the_tower_and_the_videos_behind_it(checkpoint):
    assert draft(checkpoint, frames=3).tokens == 3 * 10
    assert draft(checkpoint, input="image").tokens == 9
    assert draft(checkpoint, "fastervlm", "4", frames=3).tokens == 3 * 4
    assert draft(checkpoint, "divprune", "4", frames=3).tokens == 4
    with pytest.raises(UserError, match="an image has 9 patches"):
        draft(checkpoint, "fastervlm", "10", frames=3)


@pytest.mark.parametrize("frames", [2, 5])
def test_uncut_videos_are_transformers_own_with_a_cls_row_for_each_frame(checkpoint, stock, tmp_path, frames):
    shown = form(frames=frames)
    own = VideoLlava(stock.config, stock, shown)
    pixels = own.stock_pixels(checkpoint, animation(tmp_path / "a.webp", 30, 20, 7))
    assert pixels.shape == (1, frames, 3, 12, 12)
    with torch.no_grad():
        wanted = stock.model.get_video_features(pixels).pooler_output
    assert wanted.shape == (frames, 10, 16)
    rows, kept = uncut_in_onnxruntime(VideoLlava, checkpoint, shown, pixels)
    np.testing.assert_allclose(rows[0], wanted.flatten(0, 1), atol=2e-5)
    assert kept[0].tolist() == list(range(frames * 10))
    assert own.shape(1).tokens + own.added == frames * 10
    sight = Reference(own, method("none"), ()).see(pixels)
    torch.testing.assert_close(sight.embeds, wanted.flatten(0, 1), atol=1e-5, rtol=1e-5)
    ids = torch.tensor([[1, 5, *[VIDEO] * frames * 10, 9, 11]])
    with torch.no_grad():
        logits = stock(input_ids=ids, pixel_values_videos=pixels).logits[:, -1]
    read = Reference(own, method("none"), ()).read([1, 5, VIDEO, 9, 11], [sight], []).logits
    torch.testing.assert_close(read, logits, atol=1e-4, rtol=1e-4)


def test_uncut_pictures_are_transformers_own_through_the_other_tower(checkpoint, stock, tmp_path):
    shown = form(input="image")
    pixels = VideoLlava(stock.config, stock, shown).stock_pixels(checkpoint, picture(tmp_path / "a.png", 30, 20))
    with torch.no_grad():
        wanted = stock.model.get_image_features(pixels).pooler_output
        video = stock.model.get_video_features(pixels[None]).pooler_output[:, 1:]
    rows, kept = uncut_in_onnxruntime(VideoLlava, checkpoint, shown, pixels)
    np.testing.assert_allclose(rows, wanted, atol=2e-5)
    assert (video - wanted).abs().max() > 0.1
    assert kept.tolist() == [list(range(9))]


def test_cut_frames_are_numbered_as_rows_of_the_uncut_video(checkpoint, stock, tmp_path):
    own = VideoLlava(stock.config, stock, form(frames=3))
    pixels = own.stock_pixels(checkpoint, animation(tmp_path / "a.webp", 30, 20, 3))
    whole = Reference(own, method("none"), ()).see(pixels)
    for name in ("fastervlm", "divprune"):
        reducer = method(name)
        stages = make_plan(name, reducer, own.shape(1), Budget("4"))
        sight = Reference(own, reducer, stages).see(pixels)
        torch.testing.assert_close(sight.embeds, whole.embeds[sight.kept])
        assert all(number % 10 for number in sight.kept.tolist())


@pytest.mark.parametrize("size", [(12, 12), (30, 20), (20, 31), (200, 14), (640, 480)])
def test_the_runtime_prepares_what_the_checkpoints_processor_does(checkpoint, stock, tmp_path, size):
    film, image = animation(tmp_path / "a.webp", *size, 5), picture(tmp_path / "a.png", *size)
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
    wanted = processor(open_video(film).sampled(3), return_tensors="np")["pixel_values"]
    made, planned = of_runtime(draft(checkpoint, frames=3), film, video=True)
    assert np.array_equal(made, wanted)
    assert np.array_equal(VideoLlava(stock.config, stock, planned.form).stock_pixels(checkpoint, film)[0], made)
    made, planned = of_runtime(draft(checkpoint, input="image"), image)
    assert np.array_equal(VideoLlava(stock.config, stock, planned.form).stock_pixels(checkpoint, image)[0], made)


def real():
    """LanguageBind/Video-LLaVA-7B-hf as the hub has it."""
    vision = {"model_type": "clip_vision_model", "image_size": 224, "patch_size": 14, "hidden_size": 1024}
    vision |= {"intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "projection_dim": 768}
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
    return VideoLlavaConfig(vision_config=vision, text_config=text, image_token_index=32000, video_token_index=32001)


@pytest.mark.parametrize(
    ("asked", "keep", "dense", "cut"), [({}, "12.5%", 2056, 256), ({"input": "image"}, "64", 256, 64)]
)
def test_real_sizes(asked, keep, dense, cut):
    """Plans and shapes, without a single weight."""
    config = real()
    [shown] = VideoLlava.forms(config, Asked(**asked))
    own = VideoLlava(config, torch.nn.Module(), shown)
    stages = make_plan("fastervlm", method("fastervlm"), own.shape(1), Budget(keep))
    assert (own.shape(1).tower_last, own.shape(1).tokens + own.added, tokens_after(stages, own.shape(1))) == (
        22,
        dense,
        cut,
    )
    assert uncut_on_meta(VideoLlava, config, shown) == [(1, dense, 4096), (1, dense)]
    assert uncut_on_meta(VideoLlava, config, shown, "fastervlm", stages) == [(1, cut, 4096), (1, cut)]
    costs = own.geometry(cut)
    assert (costs.views, costs.tower_tokens, costs.tower_layers, costs.d) == (shown.views, 257, 23, 4096)


def test_a_bundle_answers_about_a_video(checkpoint, tmp_path):
    recipe = Recipe(str(checkpoint), "fastervlm", "4", targets=("ort-cpu",), dtype="fp32", frames=3)
    outcome = export(recipe, tmp_path / "bundle", Console(quiet=True))
    assert outcome.parity["verdict"] == "pass"
    [told] = outcome.contract["pictures"]
    assert (told["kind"], told["token_id"], told["views"], told["tokens"]) == ("video", VIDEO, 3, 12)
    film = animation(tmp_path / "a.webp", 30, 20, 5)
    session = Session.open(outcome.path)
    [seen] = session.see([open_video(film)])
    assert seen["image_embeds"].shape == (12, 16)
    [answer] = session.generate([[1, 5, VIDEO, 9, 11]], [[open_video(film)]], max_new_tokens=4)
    assert 1 <= len(answer) <= 4
    with pytest.raises(UserError, match="this bundle takes no image: give it videos"):
        session.see([open_image(picture(tmp_path / "a.png", 30, 20))])
    code, said, error = run(
        "run", outcome.path, "--video", film, "--prompt", "what color is it?", "--max-new-tokens", 4
    )
    assert (code, error) == (0, "")
    assert said.strip()
