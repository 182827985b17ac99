import warnings

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from engines import images
from engines.errors import UserError
from engines.images import open_image, preprocess, visible

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SIZES = [
    (30, 30),
    (31, 57),
    (57, 31),
    (640, 480),
    (333, 500),
    (20, 200),
    (97, 96),
    (96, 97),
    (1, 3),
    (7, 500),
]


def spec(size, crop, resample=3):
    common = {"rescale": 0.00392156862745098, "mean": MEAN, "std": STD}
    return {"size": size, "crop": crop, "resample": resample, **common}


def noise(width, height, mode="RGB"):
    channels = len(mode)
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze())


def theirs(image, spec):
    crop = spec["crop"]
    processor = CLIPImageProcessorPil(
        size=spec["size"],
        do_center_crop=crop is not None,
        crop_size={"height": crop[0], "width": crop[1]} if crop else None,
        resample=spec["resample"],
        image_mean=spec["mean"],
        image_std=spec["std"],
    )
    return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "geometry",
    [
        ({"shortest_edge": 96}, [96, 96], 3),
        ({"shortest_edge": 97}, [64, 81], 2),
        ({"height": 96, "width": 96}, None, 3),
        ({"height": 50, "width": 33}, None, 2),
        ({"height": 40, "width": 41}, [63, 62], 3),  # smaller than the crop: black borders
        ({"height": 40, "width": 80}, [63, 62], 3),
    ],
)
def test_pixels_are_the_processors_bit_for_bit(size, geometry):
    image, mine = noise(*size), spec(*geometry)
    values = preprocess(image, mine)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, theirs(image, mine))


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb_as_in_the_processor(mode):
    image = noise(40, 30, "RGBA") if mode == "RGBA" else noise(40, 30).convert(mode)
    mine = spec({"shortest_edge": 24}, [24, 24])
    np.testing.assert_array_equal(preprocess(image, mine), theirs(image, mine))


def test_visible_is_what_the_pixel_values_show():
    mine = spec({"shortest_edge": 32}, [32, 32])
    image = noise(50, 80)
    shown = np.asarray(visible(image, mine))
    assert shown.shape == (32, 32, 3)
    values = preprocess(image, mine).transpose(1, 2, 0) * np.array(STD) + np.array(MEAN)
    np.testing.assert_array_equal(np.round(values * 255).astype(np.uint8), shown)


def test_unknown_size_and_elongated_pictures_are_refused():
    with pytest.raises(UserError, match="expected shortest_edge"):
        visible(noise(4, 4), spec({"longest_edge": 32}, None))
    with pytest.raises(UserError, match="too elongated"):
        visible(Image.new("RGB", (30_000, 1)), spec({"shortest_edge": 336}, [336, 336]))


def test_open_keeps_the_pixels_and_turns_the_picture_upright(tmp_path):
    image = noise(20, 10)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(image))
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    image.save(tmp_path / "turned.png", exif=exif)
    assert open_image(str(tmp_path / "turned.png")).size == (10, 20)


def test_open_shows_see_through_parts_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png")
    assert opened.mode == "RGB"
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (255, 255, 255)]


def test_open_refuses_what_is_no_picture(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for name, reason in {
        "none.png": "no such picture",
        ".": "not a file",
        "text.png": "not a picture",
        "empty.jpg": "not a picture",
        "drawing.eps": "not a picture",
    }.items():
        with pytest.raises(UserError, match=reason) as caught:
            open_image(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "bmp", "gif"])
def test_open_refuses_damaged_files(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    noise(200, 200).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged|not a picture") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("claimed", [(10_000, 9_000), (20_000, 20_000)])  # over Pillow's warning, over its error
def test_open_refuses_enormous_pictures_by_their_header(tmp_path, claimed, monkeypatch):
    path = tmp_path / "bomb.bmp"
    Image.new("RGB", (1, 1)).save(path)
    header = bytearray(path.read_bytes())
    header[18:26] = claimed[0].to_bytes(4, "little") + claimed[1].to_bytes(4, "little")
    path.write_bytes(header)
    monkeypatch.setattr(images, "rgb", lambda _: pytest.fail("the picture was decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="more than 64 million pixels"):
            open_image(path)


def test_the_limit_can_be_set(tmp_path):
    noise(20, 10).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_pixels=200).size == (20, 10)
    with pytest.raises(UserError, match="more than"):
        open_image(tmp_path / "a.png", max_pixels=199)
