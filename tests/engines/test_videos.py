import warnings

import numpy as np
import pytest
from PIL import Image

from engines.errors import UserError
from engines.videos import Video, open_video
from tests.engines.numpy_bundle import picture

FRAMES = [picture(n, (20, 10)) for n in range(7)]


@pytest.mark.parametrize(
    ("frames", "count", "places"),
    [
        (7, 4, [0, 2, 4, 6]),
        (10, 4, [0, 3, 6, 9]),
        (10, 3, [0, 4, 9]),
        (2, 4, [0, 0, 0, 1]),
        (5, 1, [0]),
        (1, 3, [0] * 3),
    ],
)
def test_frames_are_sampled_evenly(frames, count, places):
    assert Video(range(frames)).sampled(count) == places


def save(path, frames=FRAMES, **settings):
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, **settings)
    return path


@pytest.mark.parametrize(("name", "settings"), [("a.webp", {"lossless": True}), ("a.png", {})])
def test_animations_keep_their_pixels(tmp_path, name, settings):
    opened = open_video(save(tmp_path / name, **settings))
    np.testing.assert_array_equal([np.asarray(f) for f in opened.frames], [np.asarray(f) for f in FRAMES])


def test_a_gif_has_its_frames_in_rgb(tmp_path):
    opened = open_video(str(save(tmp_path / "a.gif")))
    assert [(frame.mode, frame.size) for frame in opened.frames] == [("RGB", (20, 10))] * 7
    assert len({frame.tobytes() for frame in opened.frames}) == 7


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, frame in zip(("c.bmp", "a.png", "b.png", ".hidden"), FRAMES, strict=False):
        frame.save(tmp_path / name, format="PNG" if name == ".hidden" else None)
    opened = open_video(tmp_path)
    expected = [FRAMES[1], FRAMES[2], FRAMES[0]]
    np.testing.assert_array_equal([np.asarray(f) for f in opened.frames], [np.asarray(f) for f in expected])


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    picture(1).save(tmp_path / "still.png")
    (tmp_path / "text.gif").write_text("hello")
    (tmp_path / "film.mp4").write_bytes(b"\0" * 99)
    whole = save(tmp_path / "whole.webp").read_bytes()
    (tmp_path / "half.webp").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/notes.txt").write_text("hello")
    for name, reason in {
        "none.gif": "no such video",
        "still.png": "a still picture",
        "text.gif": "not a picture in one of the formats GIF, PNG, WEBP",
        "film.mp4": "not a picture in one of the formats",
        "half.webp": "damaged|not a picture|cannot be read",
        "empty": "no pictures in it",
        "mixed": r"notes\.txt: not a picture",
    }.items():
        with pytest.raises(UserError, match=reason) as caught:
            open_video(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_too_many_frames_and_pixels_are_refused(tmp_path):
    path = save(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    for n, frame in enumerate(FRAMES):
        frame.save(tmp_path / f"folder/{n}.png")
    for film in (path, tmp_path / "folder"):
        assert len(open_video(film, most_frames=7, max_pixels=1400).frames) == 7
        with pytest.raises(UserError, match="more than 6 frames"):
            open_video(film, most_frames=6)
        with pytest.raises(UserError, match="million pixels in all"):
            open_video(film, max_pixels=1399)


def test_an_enormous_frame_is_refused_by_its_header(tmp_path):
    path = save(tmp_path / "a.gif")
    header = bytearray(path.read_bytes())
    header[6:10] = b"\xff\xff\xff\xff"
    path.write_bytes(header)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="million pixels") as caught:
            open_video(path)
    assert "\n" not in str(caught.value)
    assert isinstance(Image.MAX_IMAGE_PIXELS, int)
