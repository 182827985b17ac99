"""Draws the pictures of the demo model: shapes and a digit on a noisy ground, and what to ask of them.

The demo model was trained on pictures of this kind: 96x96 pixels, two to five shapes of six colours in two
sizes, often a digit, over clutter (thin lines, grey and brown blobs) that no question asks about.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 96
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 40),
    "purple": (165, 50, 200),
    "orange": (245, 140, 30),
}


@dataclass
class Scene:
    """A picture and what is on it: shapes as (shape, colour, size), the digit or None."""

    picture: Image.Image
    shapes: list[tuple[str, str, str]] = field(default_factory=list)
    digit: str | None = None
    boxes: list[tuple[float, float, float]] = field(default_factory=list)  # centre x, y, half side


def draw_scene(seed: int) -> Scene:
    """Draw one picture: background, shapes (large ones first), digit."""
    rng = np.random.default_rng(seed)
    scene = Scene(draw_ground(rng))
    sizes = sorted("large" if rng.random() < 0.45 else "small" for _ in range(rng.integers(2, 6)))
    for size in sizes:
        radius = rng.uniform(5.2, 7) if size == "small" else rng.uniform(10, 13.5)
        if at := find_room(rng, scene, radius * 1.15):
            add_shape(rng, scene, at, radius, size)
    if rng.random() < 0.75 and (at := find_room(rng, scene, 8)):
        add_digit(rng, scene, at)
    return scene


def draw_ground(rng: np.random.Generator) -> Image.Image:
    """Soft colour noise, fine grain, thin lines and dull blobs: everything that is not evidence."""
    cells = int(rng.integers(3, 9))
    coarse = rng.uniform(60, 170, (cells, cells, 1)) + rng.uniform(-22, 22, (cells, cells, 3))
    soft = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grain = np.asarray(soft).astype(int) + rng.integers(-14, 15, (SIDE, SIDE, 1))
    picture = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(3, 9)):
        colors = list(COLORS.values())
        dull = tuple(int(v) for v in rng.integers(50, 190, 3) // 2 + 40)
        pen.line(rng.integers(-5, SIDE + 5, 4).tolist(), colors[rng.integers(6)] if rng.random() < 0.35 else dull)
    for _ in range(rng.integers(2, 7)):
        (x, y), (a, b), grey = rng.integers(0, SIDE, 2), rng.integers(3, 11, 2), rng.integers(50, 180)
        tint = (int(grey + rng.integers(18)), int(grey), int(grey - rng.integers(18)))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)([x - a, y - b, x + a, y + b], tint)
    return picture


def find_room(rng: np.random.Generator, scene: Scene, half: float) -> tuple[float, float] | None:
    """Find a centre whose square of this half side touches no other; None after forty tries."""
    for _ in range(40):
        x, y = rng.uniform(half + 1, SIDE - half - 1, 2)
        if all(max(abs(x - u), abs(y - v)) > half + other + 1 for u, v, other in scene.boxes):
            scene.boxes.append((x, y, half))
            return x, y
    return None


def add_shape(rng: np.random.Generator, scene: Scene, at: tuple[float, float], r: float, size: str) -> None:
    """Draw one shape of a random kind and colour, slightly turned, its colour slightly off."""
    shape, color = SHAPES[rng.integers(6)], list(COLORS)[rng.integers(6)]
    fill = tuple(int(v) for v in (np.array(COLORS[color]) + rng.integers(-18, 19, 3)).clip(0, 255))
    turn = float(rng.uniform(-0.35, 0.35))
    (x, y), pen = at, ImageDraw.Draw(scene.picture)
    if shape == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill)
    elif shape == "cross":
        arm = r * 0.34
        pen.rectangle([x - r, y - arm, x + r, y + arm], fill)
        pen.rectangle([x - arm, y - r, x + arm, y + r], fill)
    else:
        pen.polygon([(x + dx, y + dy) for dx, dy in corners(shape, r, turn)], fill)
    scene.shapes.append((shape, color, size))


def corners(shape: str, r: float, turn: float) -> list[tuple[float, float]]:
    """Return the corners of a polygon shape around the origin."""
    if shape == "diamond":
        return [(0.72 * r, 0), (0, 1.15 * r), (-0.72 * r, 0), (0, -1.15 * r)]
    count, start = {"square": (4, math.pi / 4), "triangle": (3, -math.pi / 2), "star": (10, -math.pi / 2)}[shape]
    if shape == "square":
        turn *= 0.3
    far, near = (r * 1.1 if shape == "square" else r * 1.15), r * 0.45
    rays = [near if shape == "star" and i % 2 else far for i in range(count)]
    angles = [start + turn + i * 2 * math.pi / count for i in range(count)]
    return [(ray * math.cos(a), ray * math.sin(a)) for ray, a in zip(rays, angles, strict=True)]


def add_digit(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> None:
    """Write one digit, white or nearly black."""
    scene.digit = str(rng.integers(10))
    font = ImageFont.truetype("DejaVuSans-Bold.ttf", int(rng.integers(16, 21)))
    fill = (255, 255, 255) if rng.random() < 0.5 else (12, 12, 12)
    ImageDraw.Draw(scene.picture).text(at, scene.digit, fill, font, anchor="mm")


def questions(scene: Scene) -> dict[str, str]:
    """Return every question with exactly one right answer on this picture, with that answer."""
    asked = {}
    for shape, color, size in scene.shapes:
        if sum(s == shape for s, _, _ in scene.shapes) == 1:
            asked[f"what color is the {shape} ?"] = color
            asked[f"is the {shape} small or large ?"] = size
        if sum(c == color for _, c, _ in scene.shapes) == 1:
            asked[f"what shape is {color} ?"] = shape
        asked[f"is there a {color} {shape} ?"] = "yes"
    if scene.digit is not None:
        asked["which digit is in the picture ?"] = scene.digit
    return asked
