"""The pictures that ship with tp-export, and the questions asked about them."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal


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


def pictures(kind: Literal["demo", "general"]) -> list[Picture]:
    """List the pictures of one kind.

    Args:
        kind: "demo" = 96x96 scenes that the demo model was trained to read, with right answers;
            "general" = two drawn views of about 640x480, for any other model.
    """
    folder = Path(str(files("exporter"))) / "data" / "pictures"
    listed = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))[kind]
    return [Picture(folder / entry["file"], tuple(Question(**q) for q in entry["questions"])) for entry in listed]
