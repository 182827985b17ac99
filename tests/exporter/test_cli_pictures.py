"""The options that say what a model is to look at, and which further models a method reads."""

from unittest import mock

import pytest

from tests.exporter.mistakes import EXPORT, refused, run


class StoppedError(Exception):
    """Ends an export before it begins."""


def asked(*words):
    """The recipe that a command makes."""
    with mock.patch("exporter.export.export", side_effect=StoppedError) as export:
        code, _, _ = run("--method", "fastervlm", "--keep", "4", *words)
    assert code == 1
    return export.call_args.args[0]


def test_they_reach_the_recipe():
    recipe = asked(
        *("--input", "video", "--grid", "2x2", "--grid", "1x3", "--image-size", "640x480"),
        *("--frames", "8", "--aux", "clip=some/dir=ectory"),
    )
    assert (recipe.input, recipe.grids, recipe.image_size) == ("video", ("2x2", "1x3"), "640x480")
    assert (recipe.frames, recipe.aux) == (8, {"clip": "some/dir=ectory"})


def test_by_default_the_family_decides():
    recipe = asked()
    assert (recipe.input, recipe.grids, recipe.image_size, recipe.frames, recipe.aux) == (None, (), None, None, {})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--grid", "2x2"), "--grid: LLaVA-1.5 has no choice there; leave it out"),
        (("--image-size", "96x96"), "--image-size: LLaVA-1.5 has no choice there"),
        (("--frames", "8"), "--frames: LLaVA-1.5 has no choice there"),
        (("--frames", "many"), "'many' is not a valid integer"),
        (("--input", "video"), "--input video: LLaVA-1.5 takes pictures only"),
        (("--input", "sound"), "'sound' is not one of 'image', 'video'"),
        (("--aux", "clip"), "--aux clip: write it as NAME=PATH"),
        (("--aux", "=here"), "--aux =here: write it as NAME=PATH"),
        (("--aux", "clip=here"), "--aux clip: --method fastervlm does not use it"),
        (("--aux", "ear=here"), "--aux ear: no method uses such a file; there are: clip, router"),
        (("--param", "layer"), "--param layer: write it as NAME=VALUE"),
    ],
)
def test_mistakes(words, says):
    refused(*EXPORT, *words, says=says)
