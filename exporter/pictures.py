"""The pictures that ship with tp-export, and the questions asked about them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from PIL import Image

SCREEN, FRAMES = (256, 192), 8  # of an animation: pixels, and frames of each scene


@dataclass(frozen=True)
class Question:
    """A question about a picture; answer = the one right word, None where a model may answer freely."""

    text: str
    answer: str | None = None


@dataclass(frozen=True)
class Picture:
    """A picture file and its questions."""

    path: Path
    questions: tuple[Question, ...]


def animate(scenes: Sequence[Path], place: Path) -> None:
    """Write pictures as one animation without losses: each is a scene in which a part of the picture moves."""
    frames = []
    for path in scenes:
        with Image.open(path) as image:
            still = image.convert("RGB").resize(SCREEN)
        moving = still.crop((0, 0, SCREEN[0] // 2, SCREEN[1] // 2))
        for step in range(FRAMES):
            frames.append(still.copy())
            frames[-1].paste(moving, (step * SCREEN[0] // 16, step * SCREEN[1] // 16))
    frames[0].save(place, format="PNG", save_all=True, append_images=frames[1:], duration=200)


def pictures(kind: Literal["demo", "general"]) -> list[Picture]:
    """List the pictures of one kind.

    Args:
        kind: "demo" = 96x96 scenes that the demo model was trained to read, with right answers;
            "general" = two drawn views of about 640x480, for any other model.
    """
    folder = Path(str(files("exporter"))) / "data" / "pictures"
    listed = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))[kind]
    return [Picture(folder / entry["file"], tuple(Question(**q) for q in entry["questions"])) for entry in listed]
