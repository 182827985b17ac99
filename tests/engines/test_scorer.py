"""Frames scored by a bundle."""

import numpy as np
import pytest
from PIL import Image

from engines.errors import UserError
from engines.scorer import Scorer
from engines.videos import Video


class Asked:
    """A session that says A the surer the brighter the picture is."""

    def __init__(self, kind="image"):
        self.contract = self
        self.geometry = self
        self.forms = (type("Form", (), {"kind": kind})(),)
        self.prompt = self
        self.heard = []

    def encode(self, text):
        self.heard.append(text)
        return [1, 2]

    def render(self, messages):
        return messages[0]["content"][1]["text"]

    def prefill(self, prompts, pictures):
        [[frame]] = pictures
        logits = np.zeros((1, 4))
        logits[0, 2] = np.asarray(frame).mean() / 50
        return None, logits


def test_each_frame_shown_has_the_probability_of_yes():
    frames = [Image.new("RGB", (4, 4), (level,) * 3) for level in (0, 100, 200)]
    session = Asked()
    scored = Scorer(session).scored(Video(frames), "Is it day?", 3)
    odds = np.exp([0.0, 2.0, 4.0])
    assert scored.scores == pytest.approx(tuple(odds / (odds + 3)))
    assert scored.frames is frames
    assert "Is it day?" in session.heard[-1]


def test_a_scorer_must_take_pictures():
    with pytest.raises(UserError, match="--scorer: this bundle takes no pictures"):
        Scorer(Asked("video"))
