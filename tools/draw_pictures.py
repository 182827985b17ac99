"""Draws every picture in exporter/data/pictures and writes the questions asked about them.

Run from anywhere: python tools/draw_pictures.py. The same code gives the same pictures.
"""

import json
from pathlib import Path

from pictures.harbour import draw_harbour
from pictures.scenes import draw_scene, questions
from pictures.street import draw_street

FOLDER = Path(__file__).parent.parent / "exporter" / "data" / "pictures"
# Scenes that the demo model never saw in training. Of the questions each allows, the ones it answers with
# confidence; the tests hold it to the right answer, on all patches and on the 64 that FasterVLM keeps.
SCENES = {
    "shapes-1.png": (
        2951,
        (
            "what color is the star ?",
            "what shape is purple ?",
            "is the cross small or large ?",
            "what color is the square ?",
            "is there a yellow star ?",
            "what shape is orange ?",
        ),
    ),
    "shapes-2.png": (
        3129,
        (
            "which digit is in the picture ?",
            "what color is the diamond ?",
            "what shape is blue ?",
            "is the square small or large ?",
            "is there a yellow cross ?",
            "what color is the cross ?",
        ),
    ),
}
GENERAL = {
    "harbour.jpg": (draw_harbour, ("What is in the foreground?", "What time of day is it?")),
    "street.jpg": (draw_street, ("What color is the vehicle?", "What stands behind the houses?")),
}


def main() -> None:
    """Draw, save, and list."""
    listed = {
        "demo": [draw_demo(name) for name in SCENES],
        "general": [draw_general(name) for name in GENERAL],
    }
    (FOLDER / "pictures.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def draw_demo(name: str) -> dict[str, object]:
    """Draw one scene; the answers come from what was drawn."""
    seed, asked = SCENES[name]
    scene = draw_scene(seed)
    scene.picture.save(FOLDER / name, optimize=True)
    answers = questions(scene)
    return {"file": name, "questions": [{"text": text, "answer": answers[text]} for text in asked]}


def draw_general(name: str) -> dict[str, object]:
    """Draw one picture for models that were trained on photographs."""
    draw, asked = GENERAL[name]
    draw().save(FOLDER / name, quality=90)
    return {"file": name, "questions": [{"text": text} for text in asked]}


if __name__ == "__main__":
    main()
