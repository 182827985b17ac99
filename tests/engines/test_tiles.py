import numpy as np
import pytest
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from engines.errors import UserError
from engines.images import preprocess
from engines.tiles import canvas, choose, pixel_values, views_of
from tests.engines.numpy_bundle import form, picture, video

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
SIZES = [
    (30, 30),
    (31, 57),
    (57, 31),
    (640, 480),
    (333, 500),
    (20, 200),
    (97, 96),
    (1, 3),
    (7, 500),
    (192, 96),
    (64, 64),
]


def tiled(rows, cols, tile=32, **changes):
    size = {"size": {"shortest_edge": tile}, "crop": [tile, tile]}
    spec = {**size, "resample": 3, "rescale": 1 / 255, "mean": MEAN, "std": STD} | changes
    return spec | {"views": {"kind": "tiles", "rows": rows, "cols": cols, "size": [tile, tile]}}


def forms(*grids, tile=32):
    return [form(part=f"vision.{n}", views=r * c + 1, preprocess=tiled(r, c, tile)) for n, (r, c) in enumerate(grids)]


def test_the_form_is_chosen_by_the_rule_of_llava_next():
    random = np.random.default_rng(0)
    sizes = [*SIZES, *map(tuple, random.integers(1, 300, (300, 2)).tolist())]
    for grids in (GRIDS, GRIDS[::-1], [(2, 2), (1, 1), (4, 4), (2, 2)]):
        known = forms(*grids)
        pinpoints = [(rows * 32, cols * 32) for rows, cols in grids]
        for width, height in sizes:
            theirs = select_best_resolution((height, width), pinpoints)
            chosen = choose(known, Image.new("RGB", (width, height)))
            assert chosen == pinpoints.index(theirs), (width, height)


def test_without_tiles_the_canvas_is_the_prepared_picture():
    plain = {**tiled(1, 1), "views": None}
    assert canvas(plain) == (32, 32)
    assert canvas(plain | {"crop": None, "size": {"height": 10, "width": 20}}) == (20, 10)
    known = [form(preprocess=plain), *forms((1, 2))]
    assert [choose(known, picture(0, size)) for size in ((30, 30), (80, 20))] == [0, 1]


def test_a_picture_thinner_than_any_canvas_still_has_a_form():
    assert choose(forms(*GRIDS), Image.new("RGB", (1, 5000))) == 0


def test_kinds_choose_first():
    film = form(part="vision.film", kind="video", preprocess=tiled(1, 1) | {"views": {"kind": "frames", "count": 1}})
    known = [film, *forms((2, 2))]
    assert (choose(known, video(1)), choose(known, picture(1))) == (0, 1)
    with pytest.raises(UserError, match="takes no image: give it videos"):
        choose([film], picture(1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("changes", [{}, {"size": {"height": 32, "width": 32}, "crop": None, "resample": 2}])
def test_tiles_are_the_processors_bit_for_bit(size, changes):
    image = picture(size[0], size)
    processor = LlavaNextImageProcessorPil(
        size=tiled(1, 1, **changes)["size"],
        do_center_crop=not changes,
        crop_size={"height": 32, "width": 32},
        resample=changes.get("resample", 3),
        image_grid_pinpoints=[[rows * 32, cols * 32] for rows, cols in GRIDS],
    )
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    rows, cols = GRIDS[choose(forms(*GRIDS), image)]
    mine = pixel_values(image, tiled(rows, cols, **changes))
    assert mine.dtype == np.float32
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_llava_onevision_too(size):
    image, changes = picture(size[0], size), {"size": {"height": 32, "width": 32}, "crop": None}
    pinpoints = [[rows * 32, cols * 32] for rows, cols in GRIDS]
    processor = LlavaOnevisionImageProcessorPil(size=changes["size"], image_grid_pinpoints=pinpoints, image_mean=MEAN,
                                                image_std=STD)  # fmt: skip
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    rows, cols = GRIDS[choose(forms(*GRIDS), image)]
    np.testing.assert_array_equal(pixel_values(image, tiled(rows, cols, **changes)), theirs)


def test_views_are_what_the_pixel_values_show():
    image, spec = picture(3, (50, 80)), tiled(3, 1)
    shown = np.stack([np.asarray(view) for view in views_of(image, spec)])
    values = pixel_values(image, spec).transpose(0, 2, 3, 1) * np.array(STD) + np.array(MEAN)
    np.testing.assert_array_equal(np.round(values * 255).astype(np.uint8), shown)


def test_frames_are_prepared_like_pictures():
    film, spec = video(1, 10), tiled(1, 1) | {"views": {"kind": "frames", "count": 4}}
    expected = np.stack([preprocess(film.frames[n], spec) for n in (0, 3, 6, 9)])
    np.testing.assert_array_equal(pixel_values(film, spec), expected)
