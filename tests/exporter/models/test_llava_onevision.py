"""LLaVA-OneVision: pictures, tiles, pooled videos as transformers has them, their plans, a bundle."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import LlavaOnevisionImageProcessorPil

from engines.errors import UserError
from engines.images import open_image
from engines.session import Session
from engines.videos import open_video
from exporter.budget import Budget
from exporter.draft import Draft
from exporter.export import export
from exporter.form import Asked, Form
from exporter.models.llava_onevision import LlavaOnevision
from exporter.plan import make_plan
from exporter.recipe import Recipe
from exporter.reference import Reference
from exporter.registry import family, method
from tests.exporter.models.looks import (
    animation,
    of_runtime,
    picture,
    uncut_in_onnxruntime,
)
from tests.exporter.models.tiny_llava_onevision import tiny_config, tiny_model, write

IMAGE, VIDEO, SIDE = 700, 702, 13
GRIDS = [(rows, cols) for rows in range(1, 4) for cols in range(1, 4)]
NONE = method("none")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """For reading only."""
    folder = tmp_path_factory.mktemp("llava-onevision")
    write(folder, tiny_model(), dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def stock(checkpoint):
    return LlavaOnevision.reference(checkpoint)


def form(**asked):
    [made] = LlavaOnevision.forms(tiny_config(), Asked(**asked))
    return made


def draft(checkpoint, method_name="none", keep=None, **asked):
    return Draft.of(Recipe(str(checkpoint), method_name, keep, targets=("ort-cpu",), **asked))


def test_it_is_found_by_its_architecture(checkpoint):
    assert family(json.loads((checkpoint / "config.json").read_text()), "") is LlavaOnevision


def test_a_picture_in_one_view_unless_it_is_asked_for_something_else():
    size = (SIDE, SIDE)
    assert form() == form(input="image") == Form(size=size)
    assert form(grids=("2x3",)) == Form(size=size, views=7, tiles=(2, 3))
    made = LlavaOnevision.forms(tiny_config(), Asked(grids=("2x3", "1x1")))
    assert [(each.part, each.views) for each in made] == [("vision.1x1", 2), ("vision.2x3", 7)]
    assert form(input="video") == Form(kind="video", size=size, views=32)
    assert form(input="video", frames=4) == Form(kind="video", size=size, views=4)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"input": "video", "frames": 1}, "--frames 1: a video has from 2 to 256 frames"),
        ({"input": "video", "grids": ("2x2",)}, "--grid: LLaVA-OneVision has no choice there"),
        ({"frames": 4}, "--frames: LLaVA-OneVision has no choice there"),
        ({"size": "8x8"}, "--image-size: LLaVA-OneVision has no choice there"),
        ({"grids": ("4x1",)}, "--grid 4x1: the checkpoint allows 1x1, 1x2, 1x3, 2x1"),
        ({"grids": ("2",)}, "--grid 2: write two numbers"),
    ],
)
def test_what_it_cannot_take(asked, says):
    with pytest.raises(UserError) as error:
        LlavaOnevision.forms(tiny_config(), Asked(**asked))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("method_name", "keep", "asked", "says"),
    [
        ("recoverable", "4", {}, "it needs a CLIP vision tower, which LLaVA-OneVision does not have"),
        ("fastervlm", "4", {"input": "video", "frames": 3}, "not possible where frames are pooled behind it"),
        ("visionzip", "4", {"input": "video", "frames": 3}, "not possible where frames are pooled behind it"),
        ("holitom", "4", {}, "it selects among the frames of a video"),
        ("divprune", "13", {"input": "video", "frames": 3}, "an image has 12 patches"),
    ],
)
def test_methods_that_do_not_fit(checkpoint, method_name, keep, asked, says):
    with pytest.raises(UserError) as error:
        draft(checkpoint, method_name, keep, **asked)
    assert says in str(error.value)


def test_budgets_count_a_views_patches_in_the_tower_and_all_of_them_behind_it(checkpoint):
    assert draft(checkpoint).tokens == 9 + 1
    assert draft(checkpoint, grids=("2x1",)).tokens == 9 + 6 * 4
    assert draft(checkpoint, input="video", frames=3).tokens == 3 * 4 + 1
    assert draft(checkpoint, "visionzip", "4", grids=("2x1",)).tokens == 3 * 4
    assert draft(checkpoint, "divprune", "4", grids=("2x1",)).tokens == 4
    assert draft(checkpoint, "holitom", "5", input="video", frames=3).tokens == 5


def uncut(checkpoint, stock, shown, pixels, wanted):
    """The traced graph and the reference see what transformers does."""
    own = LlavaOnevision(stock.config, stock, shown)
    rows, kept = uncut_in_onnxruntime(LlavaOnevision, checkpoint, shown, pixels)
    np.testing.assert_allclose(rows[0], wanted, atol=2e-5)
    assert kept[0].tolist() == list(range(len(wanted)))
    assert own.shape(1).tokens + own.added == len(wanted)
    sight = Reference(own, NONE, ()).see(pixels)
    torch.testing.assert_close(sight.embeds, wanted, atol=1e-5, rtol=1e-5)
    return sight


def test_a_picture_in_one_view_has_the_rows_of_each_of_several(checkpoint, stock, tmp_path):
    shown = form()
    own = LlavaOnevision(stock.config, stock, shown)
    pixels = own.stock_pixels(checkpoint, picture(tmp_path / "a.png", 26, 26))
    assert pixels.shape == (1, 3, SIDE, SIDE)
    two, sizes = torch.cat([pixels, 0 * pixels]), torch.tensor([[26, 26], [26, 26]])
    with torch.no_grad():
        wanted = stock.model.get_image_features(two, sizes, batch_num_images=torch.tensor([2])).pooler_output[0]
    assert len(wanted) == 10
    torch.testing.assert_close(wanted[-1], stock.model.image_newline)
    uncut(checkpoint, stock, shown, pixels, wanted)


@pytest.mark.parametrize(("rows", "cols"), [(1, 2), (3, 2)])
def test_tiles_are_transformers_own_for_a_picture_of_the_canvas_proportions(checkpoint, stock, tmp_path, rows, cols):
    """Where unpadding has nothing to take away."""
    shown = form(grids=(f"{rows}x{cols}",))
    path = picture(tmp_path / "a.png", cols * SIDE, rows * SIDE)
    pixels = LlavaOnevision(stock.config, stock, shown).stock_pixels(checkpoint, path)
    assert pixels.shape == (1, 1 + rows * cols, 3, SIDE, SIDE)
    sizes = torch.tensor([[rows * SIDE, cols * SIDE]])
    with torch.no_grad():
        wanted = stock.model.get_image_features(pixels, sizes).pooler_output[0]
    sight = uncut(checkpoint, stock, shown, pixels, wanted)
    ids = torch.tensor([[1, 5, *[IMAGE] * len(wanted), 9, 11]])
    with torch.no_grad():
        logits = stock(input_ids=ids, pixel_values=pixels, image_sizes=sizes).logits[:, -1]
    own = LlavaOnevision(stock.config, stock, shown)
    read = Reference(own, NONE, ()).read([1, 5, IMAGE, 9, 11], [sight], []).logits
    torch.testing.assert_close(read, logits, atol=1e-4, rtol=1e-4)


def test_videos_are_transformers_own_pooled_with_one_newline(checkpoint, stock, tmp_path):
    shown = form(input="video", frames=3)
    own = LlavaOnevision(stock.config, stock, shown)
    pixels = own.stock_pixels(checkpoint, animation(tmp_path / "a.webp", 30, 20, 7))
    assert pixels.shape == (1, 3, 3, SIDE, SIDE)
    with torch.no_grad():
        wanted = stock.model.get_video_features(pixels).pooler_output[0]
    assert len(wanted) == 3 * 4 + 1
    sight = uncut(checkpoint, stock, shown, pixels, wanted)
    ids = torch.tensor([[1, 5, *[VIDEO] * len(wanted), 9, 11]])
    with torch.no_grad():
        logits = stock(input_ids=ids, pixel_values_videos=pixels).logits[:, -1]
    read = Reference(own, NONE, ()).read([1, 5, VIDEO, 9, 11], [sight], []).logits
    torch.testing.assert_close(read, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("asked", [{}, {"grids": ("2x1",)}, {"input": "video", "frames": 3}])
def test_cut_rows_are_rows_of_the_uncut_picture(checkpoint, stock, tmp_path, asked):
    own = LlavaOnevision(stock.config, stock, form(**asked))
    film = animation(tmp_path / "a.webp", 30, 20, 3)
    pixels = own.stock_pixels(checkpoint, film)
    whole, reducer = Reference(own, NONE, ()).see(pixels), method("divprune")
    sight = Reference(own, reducer, make_plan("divprune", reducer, own.shape(1), Budget("6"))).see(pixels)
    torch.testing.assert_close(sight.embeds, whole.embeds[sight.kept])
    assert len(set(sight.kept.tolist())) == 6


@pytest.mark.parametrize("size", [(13, 13), (26, 13), (30, 20), (20, 31), (200, 14), (640, 480), (5, 60)])
def test_the_runtime_prepares_what_the_checkpoints_processor_does(checkpoint, stock, tmp_path, size):
    path = picture(tmp_path / "a.png", *size)
    wanted = LlavaOnevisionImageProcessorPil.from_pretrained(checkpoint)(open_image(path), return_tensors="np")
    made, planned = of_runtime(draft(checkpoint, grids=tuple(f"{rows}x{cols}" for rows, cols in GRIDS)), path)
    assert np.array_equal(made, wanted["pixel_values"][0])
    assert np.array_equal(LlavaOnevision(stock.config, stock, planned.form).stock_pixels(checkpoint, path)[0], made)
    whole, planned = of_runtime(draft(checkpoint), path)
    assert np.array_equal(whole, made[0])
    assert np.array_equal(LlavaOnevision(stock.config, stock, planned.form).stock_pixels(checkpoint, path)[0], whole)
    film = animation(tmp_path / "a.webp", *size, 5)
    made, planned = of_runtime(draft(checkpoint, input="video", frames=3), film, video=True)
    assert made.shape == (3, 3, SIDE, SIDE)
    assert np.array_equal(LlavaOnevision(stock.config, stock, planned.form).stock_pixels(checkpoint, film)[0], made)
    open_video(film).sampled(3)[1].save(tmp_path / "b.png")
    assert np.array_equal(of_runtime(draft(checkpoint), tmp_path / "b.png")[0], made[1])


def test_a_bundle_answers_about_a_picture(checkpoint, tmp_path):
    recipe = Recipe(str(checkpoint), "fastervlm", "4", targets=("ort-cpu",), dtype="fp32")
    outcome = export(recipe, tmp_path / "bundle", Console(quiet=True))
    assert outcome.parity["verdict"] == "pass"
    [told] = outcome.contract["pictures"]
    assert (told["kind"], told["token_id"], told["views"], told["tokens"]) == ("image", IMAGE, 1, 4)
    shown = open_image(picture(tmp_path / "a.png", 30, 20))
    session = Session.open(outcome.path)
    [seen] = session.see([shown])
    assert seen["image_embeds"].shape == (4, 16)
    [answer] = session.generate([[1, 5, IMAGE, 9, 11]], [[shown]], max_new_tokens=4)
    assert 1 <= len(answer) <= 4
    with pytest.raises(UserError, match="this bundle takes no video: give it images"):
        session.see([open_video(animation(tmp_path / "a.webp", 30, 20, 3))])
