"""LLaVA-NeXT bundles: the runtime alone takes pictures of any proportions, and says what PyTorch says."""

import numpy as np
import pytest
import torch
from rich.console import Console

from engines.images import open_image
from engines.session import Session
from exporter.export import export
from exporter.models.llava_next import LlavaNext
from exporter.recipe import Recipe
from tests.exporter.models.looks import picture
from tests.exporter.models.tiny_llava_next import TILE, tiny_model, write

IMAGE = 700


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava-next")
    write(folder, tiny_model(head=32))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    """Any method at two grids; one bundle each."""
    made = {}

    def bundle_of(method, keep=None, targets=("ort-cpu",)):
        if method not in made:
            recipe = Recipe(str(checkpoint), method, keep, targets=targets, grids=("2x2", "1x2"))
            path = tmp_path_factory.mktemp("bundles") / method
            made[method] = export(recipe, path, Console(quiet=True))
        return made[method]

    return bundle_of


def test_a_part_for_each_grid_and_parity_on_all_levels(bundle):
    outcome = bundle("fastervlm", "4", ("ort-cpu", "trt-rtx:sm89"))
    assert outcome.parity["verdict"] == "pass"
    assert list(outcome.contract["parts"]) == ["vision.1x2", "vision.2x2", "embed", "decoder"]
    told = [(form["part"], form["views"], form["tokens"]) for form in outcome.contract["pictures"]]
    assert told == [("vision.1x2", 3, 12), ("vision.2x2", 5, 20)]
    assert outcome.contract["engines"]["trt-rtx-sm89"]["files"].keys() == outcome.contract["parts"].keys()
    assert (outcome.path / "preview.png").stat().st_size > 1000


def test_a_conversation_about_pictures_of_both_forms(bundle, tmp_path):
    session = Session.open(bundle("fastervlm", "4", ("ort-cpu", "trt-rtx:sm89")).path)
    wide, square = (open_image(picture(tmp_path / f"{size}.png", size, 30)) for size in (70, 31))
    both = session.see([wide, square, wide])
    assert [each["form"] for each in both] == [0, 1, 0]
    assert [each["image_embeds"].shape for each in both] == [(12, 64), (20, 64), (12, 64)]
    assert np.array_equal(both[0]["kept_indices"], both[2]["kept_indices"])
    prompt = [1, 7, IMAGE, 8, IMAGE, 9]
    together = session.prefill([prompt, [1, 7, IMAGE, 9]], [[wide, square], [square]])[1]
    alone = session.prefill([prompt], [[wide, square]])[1]
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (1, 2)])
def test_uncut_it_says_what_transformers_says(bundle, checkpoint, tmp_path, rows, cols):
    session = Session.open(bundle("none").path)
    stock = LlavaNext.reference(checkpoint)
    side = 2 * TILE
    path = picture(tmp_path / "a.png", cols * side, rows * side)
    own = LlavaNext(stock.config, stock, LlavaNext.forms(stock.config, _asked(rows, cols))[0])
    pixels, sizes = own.stock_pixels(checkpoint, path), torch.tensor([[rows * side, cols * side]])
    with torch.no_grad():
        wanted = stock.get_image_features(pixels, sizes).pooler_output[0]
        ids = torch.tensor([[1, 5, *[IMAGE] * len(wanted), 9, 11]])
        out = stock.generate(input_ids=ids, pixel_values=pixels, image_sizes=sizes, max_new_tokens=6, do_sample=False)
        logits = stock(input_ids=ids, pixel_values=pixels, image_sizes=sizes).logits[:, -1]
    [seen] = session.see([open_image(path)])
    np.testing.assert_allclose(seen["image_embeds"], wanted, atol=1e-4)
    prompt, image = [1, 5, IMAGE, 9, 11], open_image(path)
    np.testing.assert_allclose(session.prefill([prompt], [[image]])[1].reshape(1, -1), logits, atol=1e-4)
    assert session.generate([prompt], [[image]], max_new_tokens=6)[0] == out[0, ids.shape[1] :].tolist()


def _asked(rows, cols):
    from exporter.form import Asked

    return Asked(grids=(f"{rows}x{cols}",))


@pytest.mark.parametrize(("method", "keep"), [("visionzip", "6"), ("divprune", "30%"), ("dart", "30%")])
def test_methods_that_merge_or_act_behind_the_projector_or_keep_positions(bundle, method, keep):
    outcome = bundle(method, keep)
    assert outcome.parity["verdict"] == "pass"
