"""Videos on the way into an export: how many frames, and the stock processor's pixels."""

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaOnevisionImageProcessorPil

from engines.errors import UserError
from exporter.form import Asked, Form
from exporter.video import MOST_FRAMES, frames_of, stock_pictures, video_form
from tests.exporter.models.looks import animation, noise, picture

SQUARE = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}


@pytest.mark.parametrize("frames", [2, 5, MOST_FRAMES])
def test_as_many_frames_as_asked_for(frames):
    assert video_form(8, Asked(frames=frames), 4) == Form(kind="video", size=(8, 8), views=frames)


def test_else_as_many_as_the_model_was_made_for():
    assert video_form(8, Asked(), 4).views == 4


@pytest.mark.parametrize("frames", [-1, 0, 1, MOST_FRAMES + 1])
def test_too_few_or_too_many(frames):
    with pytest.raises(UserError) as error:
        video_form(8, Asked(frames=frames), 4)
    assert str(error.value) == f"--frames {frames}: a video has from 2 to 256 frames"


def test_frames_are_told_of_videos_only():
    told = {"size": {"shortest_edge": 8}, "views": None}
    assert frames_of(told, Form(size=(8, 8))) == told
    of_video = frames_of(told, Form(kind="video", size=(8, 8), views=3))
    assert of_video == {**told, "views": {"kind": "frames", "count": 3}}


def test_a_pictures_pixels(tmp_path):
    made = stock_pictures(CLIPImageProcessorPil(**SQUARE), picture(tmp_path / "a.png", 12, 9), Form(size=(8, 8)))
    wanted = CLIPImageProcessorPil(**SQUARE)(noise(12, 9), return_tensors="np")["pixel_values"]
    assert np.array_equal(made, wanted)


@pytest.mark.parametrize(("frames", "places"), [(2, [0, 6]), (3, [0, 3, 6]), (9, [0, 0, 1, 2, 3, 3, 4, 5, 6])])
def test_frames_evenly_from_the_first_to_the_last(tmp_path, frames, places):
    film, form = animation(tmp_path / "a.webp", 12, 9, 7), Form(kind="video", size=(8, 8), views=frames)
    made = stock_pictures(CLIPImageProcessorPil(**SQUARE), film, form)
    drawn = [noise(12, 9, place) for place in places]
    assert np.array_equal(made[0], CLIPImageProcessorPil(**SQUARE)(drawn, return_tensors="np")["pixel_values"])


def test_of_a_processor_that_makes_tiles_the_frames_are_the_first_views(tmp_path):
    processor = LlavaOnevisionImageProcessorPil(size={"height": 8, "width": 8}, image_grid_pinpoints=[[16, 8]])
    film, form = animation(tmp_path / "a.webp", 12, 9, 2), Form(kind="video", size=(8, 8), views=2)
    made = stock_pictures(processor, film, form)
    assert made.shape == (1, 2, 3, 8, 8)
    assert np.array_equal(made[0, 1], processor(noise(12, 9, 1), return_tensors="np")["pixel_values"][0, 0])


def test_a_folder_of_pictures_is_a_video(tmp_path):
    for number in range(3):
        noise(12, 9, number).save(tmp_path / f"{number}.png")
    made = stock_pictures(CLIPImageProcessorPil(**SQUARE), tmp_path, Form(kind="video", size=(8, 8), views=2))
    last = CLIPImageProcessorPil(**SQUARE)(Image.open(tmp_path / "2.png"), return_tensors="np")["pixel_values"]
    assert np.array_equal(made[0, 1], last[0])
