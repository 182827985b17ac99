"""LLaVA-NeXT: its tiles in the authors' order, uncut as transformers has it, every layout of names, real sizes."""

import json

import numpy as np
import pytest
import torch
from transformers import LlavaNextImageProcessorPil

from engines.errors import UserError
from engines.images import open_image
from engines.parity import Case
from exporter.budget import Budget
from exporter.draft import Draft
from exporter.form import Asked
from exporter.models.llava_next import LlavaNext
from exporter.plan import make_plan
from exporter.recipe import Recipe
from exporter.reference import Reference
from exporter.registry import family, method
from exporter.witness import Witness
from tests.exporter.models.looks import of_runtime, picture
from tests.exporter.models.tiny_llava_next import GRIDS, TILE, tiny_config, tiny_model, write

NONE = method("none")
IMAGE = 700


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava-next")
    write(folder, tiny_model())
    return folder


def forms(config, *grids):
    return LlavaNext.forms(config, Asked(grids=grids))


def test_it_is_found_by_its_architecture(checkpoint):
    assert family(json.loads((checkpoint / "config.json").read_text()), "") is LlavaNext


def test_a_form_for_each_grid_in_the_checkpoints_order(checkpoint):
    made = forms(tiny_config())
    assert [form.tiles for form in made] == list(GRIDS)
    assert [form.part for form in made] == [f"vision.{rows}x{cols}" for rows, cols in GRIDS]
    assert [form.views for form in made] == [3, 3, 5, 4, 4]
    assert [form.part for form in forms(tiny_config(), "3x1", "1x2")] == ["vision.1x2", "vision.3x1"]
    assert [form.part for form in forms(tiny_config(), "2x2", "2x2")] == ["vision"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Asked(grids=("3x3",)), "--grid 3x3: the checkpoint allows 1x2, 2x1, 2x2, 3x1, 1x3"),
        (Asked(grids=("2",)), "--grid 2: write two numbers"),
        (Asked(input="video"), "--input video: LLaVA-NeXT takes pictures only"),
        (Asked(size="8x8"), "--image-size: LLaVA-NeXT has no choice there"),
        (Asked(frames=8), "--frames: LLaVA-NeXT has no choice there"),
    ],
)
def test_what_it_cannot_take(asked, says):
    with pytest.raises(UserError) as error:
        LlavaNext.forms(tiny_config(), asked)
    assert says in str(error.value)


@pytest.mark.parametrize("number", range(len(GRIDS)))
@pytest.mark.parametrize("text", ["llama", "mistral"])
def test_uncut_it_is_transformers_own_forward(checkpoint, tmp_path, number, text):
    """For a picture with the canvas' own proportions, where unpadding has nothing to take away."""
    model = tiny_model(text)
    form = forms(model.config)[number]
    own = LlavaNext(model.config, model, form)
    rows, cols = form.tiles
    path = picture(tmp_path / "a.png", cols * TILE * 3, rows * TILE * 3)
    pixels, sizes = own.stock_pixels(checkpoint, path), torch.tensor([[rows * TILE * 3, cols * TILE * 3]])
    sight = Reference(own, NONE, ()).see(pixels)
    wanted = model.get_image_features(pixels, sizes).pooler_output[0]
    torch.testing.assert_close(sight.embeds, wanted, atol=1e-5, rtol=1e-5)
    assert len(wanted) == own.shape(1).tokens + own.added
    assert sight.kept.tolist() == list(range(len(wanted)))
    ids = [1, 5, IMAGE, 9, 11]
    logits = Reference(own, NONE, ()).read(ids, [sight], []).logits
    expanded = torch.tensor([[1, 5, *[IMAGE] * len(wanted), 9, 11]])
    with torch.no_grad():
        stock = model(input_ids=expanded, pixel_values=pixels, image_sizes=sizes).logits[:, -1]
    torch.testing.assert_close(logits, stock, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keep", [1, 4, 9])
def test_cut_it_is_the_stock_tower_with_rows_picked_in_the_stitched_order(checkpoint, tmp_path, keep):
    """Everything done again by hand on stock modules: attention of [CLS], patches of each view, order of the canvas."""
    model = tiny_model()
    form = forms(model.config, "2x2")[0]
    own = LlavaNext(model.config, model, form)
    pixels = own.stock_pixels(checkpoint, picture(tmp_path / "a.png", 50, 31))
    reducer = method("fastervlm")
    stages = make_plan("fastervlm", reducer, own.shape(1), Budget(str(keep)))
    with torch.no_grad():
        sight = Reference(own, reducer, stages).see(pixels)
        seen = model.model.vision_tower(pixels[0], output_hidden_states=True, output_attentions=True)
        best = seen.attentions[-2][:, :, 0, 1:].mean(1).topk(keep).indices.sort(-1).values
        rows = model.model.multi_modal_projector(seen.hidden_states[-2][:, 1:])
    spots = []
    for view, picks in enumerate(best.tolist()):
        for place in picks:
            down, right = divmod(place, 3)
            tile_down, tile_right = divmod(view - 1, 2)
            canvas = (0, place, 0) if view == 0 else (1, tile_down * 3 + down, tile_right * 3 + right)
            number = place if view == 0 else 9 + (tile_down * 3 + down) * 7 + tile_right * 3 + right  # 6 and a newline
            spots.append((canvas, number, rows[view, place]))
    spots.sort(key=lambda spot: spot[0])
    assert sight.kept.tolist() == [number for _, number, _ in spots]
    torch.testing.assert_close(sight.embeds, torch.stack([row for *_, row in spots]))


@pytest.mark.parametrize("size", [(24, 24), (50, 20), (20, 50), (300, 40), (37, 41), (1, 30), (12, 12), (480, 640)])
def test_the_runtime_prepares_what_the_checkpoints_processor_does(checkpoint, tmp_path, size):
    path = picture(tmp_path / "a.png", *size)
    draft = Draft.of(Recipe(model=str(checkpoint), method="none"))
    wanted = LlavaNextImageProcessorPil.from_pretrained(checkpoint)(open_image(path), return_tensors="np")[
        "pixel_values"
    ]
    made, planned = of_runtime(draft, path)
    assert np.array_equal(made, wanted[0])
    own = LlavaNext(draft.config, torch.nn.Module(), planned.form)
    assert np.array_equal(own.stock_pixels(checkpoint, path).numpy(), wanted)


def test_kept_indices_are_places_in_the_uncut_picture(checkpoint, tmp_path):
    """Methods that keep positions number rows by them; newlines count."""
    model = tiny_model()
    own = LlavaNext(model.config, model, forms(model.config, "2x2")[0])
    pixels = own.stock_pixels(checkpoint, picture(tmp_path / "a.png", 24, 24))
    whole = Reference(own, NONE, ()).see(pixels)
    for name in ("fastervlm", "divprune"):
        reducer = method(name)
        stages = make_plan(name, reducer, own.shape(1), Budget("30%"))
        sight = Reference(own, reducer, stages).see(pixels)
        torch.testing.assert_close(sight.embeds, whole.embeds[sight.kept])
        assert sight.kept.tolist() == sorted(sight.kept.tolist())


def test_other_indices_than_its_own_can_be_forced_on_the_reference(checkpoint, tmp_path):
    """As 16-bit engines do; the indices are those of the uncut picture."""
    model = tiny_model()
    draft = Draft.of(Recipe(str(checkpoint), "divprune", "5", grids=("2x2",)))
    own = LlavaNext(model.config, model, draft.main.form)
    path = picture(tmp_path / "a.png", 24, 24)
    whole = Reference(own, NONE, ()).see(own.stock_pixels(checkpoint, path))
    reference = Reference(own, draft.reducer, draft.stages)
    kept = torch.tensor([0, 8, 9, 14, 49])
    _, seen, comparable = Witness(draft, reference, [], "fp16").sight(path, Case(path.name, "", "", [1, IMAGE]), kept)
    assert comparable
    assert seen.kept.tolist() == kept.tolist()
    torch.testing.assert_close(seen.embeds, whole.embeds[kept])
