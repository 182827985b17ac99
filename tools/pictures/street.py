"""Draws a street corner: a red tram between two rows of houses, a tree, a lamp, long soft shadows."""

import numpy as np
from pictures.canvas import Paint, finish, glow, gradient, layer, noise, over, tint
from pictures.space import Wall, see, shade
from PIL import Image, ImageDraw, ImageFilter

SIZE = (960, 1280)


def draw_street() -> Image.Image:
    """Return the picture, 480x640."""
    scene = gradient(SIZE, [(0, "#5b93c9"), (0.35, "#b9d6e6"), (0.54, "#f7e7cf"), (1, "#f7e7cf")])
    scene = tint(scene, "#ffffff", (noise(SIZE, (3, 8), 21, 5) - 0.48).clip(0, 1) * 2.4)
    scene = over(scene, ground(), layer(SIZE, rails), shadow())
    scene = over(scene, textured(houses), layer(SIZE, tram), layer(SIZE, street_lamp), tree())
    return finish(glow(scene, (120, 120), 420, "#fff0cf", 0.35), (480, 640), 2)


def ground() -> Image.Image:
    """Cobbles in rows that shrink with distance, and two pavements."""
    rng = np.random.default_rng(7)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        pen.polygon([(0, see(0, 0, 60)[1]), (SIZE[0], see(0, 0, 60)[1]), (SIZE[0], SIZE[1]), (0, SIZE[1])], "#8d8580")
        for z in np.geomspace(60, 2.2, 150):
            deep = z * 0.022
            for x in np.arange(-4.2, 6.2, 0.24 if z < 12 else 0.6):
                grey = int(rng.uniform(112, 158))
                Wall((x + rng.uniform(0, 0.05), 0, z - deep), (1, 0, 0), (0, 0, 1)).box(
                    pen, (grey + 8, grey + 2, grey - 6), 0, 0, (0.2 if z < 12 else 0.55, deep * 0.8)
                )
        for x, wide in ((-4.6, 2.2), (4.6, 2.4)):
            Wall((min(x, x + np.sign(x) * wide), 0.12, 1.6), (1, 0, 0), (0, 0, 1)).box(pen, "#b7aea4", 0, 0, (wide, 50))
            Wall((x, 0, 1.6), (0, 0, 1)).box(pen, "#7e766f", 0, 0, (50, 0.14))

    return layer(SIZE, paint, 0.8)


def rails(pen: ImageDraw.ImageDraw) -> None:
    """The track and, above it, the wire."""
    for x in (0.88, 2.32):
        for width, color in ((0.12, "#5a544f"), (0.05, "#d5d2cc")):
            pen.polygon([see(x, 0, 1.6), see(x + width, 0, 1.6), see(x + width, 0, 60), see(x, 0, 60)], color)
    pen.line([see(1.65, 5.6, 2.0), see(1.65, 5.6, 60)], "#3b3b40", 3)


def shadow() -> Image.Image:
    """Long soft shadows of the left houses, the tram and the tree."""

    def paint(pen: ImageDraw.ImageDraw) -> None:
        pen.polygon([see(-7, 0, 60), see(-7, 0, 1.6), see(-2.4, 0, 1.6), see(-3.4, 0, 60)], (30, 28, 60, 120))
        pen.polygon([see(0.4, 0, 9.2), see(4.2, 0, 8.6), see(4.5, 0, 18), see(0.4, 0, 18)], (20, 18, 45, 150))
        pen.ellipse((*see(2.2, 0, 6.4), *see(6.4, 0, 4.3)), (25, 25, 55, 130))

    return layer(SIZE, paint, 11)


def houses(pen: ImageDraw.ImageDraw) -> None:
    """Both rows, far houses first: shaded on the left, sunlit on the right, and one across the end."""
    church(pen)
    for i, color in enumerate(("#d8c3a5", "#b98a72", "#e2cfae", "#a9b7a6", "#cfa88f")):
        end = Wall((-14 + 6 * i, 0, 52), (1, 0, 0))
        end.box(pen, shade(color, 0.94), 0, 0, (6, 10 + i * 7 % 3))
        end.box(pen, "#855246", 0, 10 + i * 7 % 3, (6, 1.8))
        for u, v in np.ndindex(3, 3):
            end.box(pen, "#53687c", 0.8 + 1.7 * u, 1.2 + 3 * v, (1, 1.8))
    colors = ("#d9a45b", "#c9695a", "#e6d3a8", "#8fae9f", "#d8b0a0", "#b7c4d6")
    for i, z in reversed(list(enumerate((4.2, 11, 18, 25, 33, 41)))):
        facade(pen, -6.8, z, 6.8 + (z > 24), colors[i], 0.66, 9.5 + (i * 37 % 5) * 0.7)
        facade(pen, 7.0, z, 6.8 + (z > 24), colors[(i + 3) % 6], 1.04, 8.8 + (i * 53 % 5) * 0.8)


def church(pen: ImageDraw.ImageDraw) -> None:
    """A tower with a clock over the roofs at the end of the street."""
    tower = Wall((-5.6, 0, 70), (1, 0, 0))
    tower.box(pen, "#c4ad90", 0, 0, (6, 25))
    tower.box(pen, "#a58d73", 0, 0, (1.8, 25))
    tower.box(pen, "#e5d5bb", -0.3, 24.4, (6.6, 0.9))
    tower.box(pen, "#5c5560", 2.2, 14.6, (1.6, 3))
    pen.polygon([tower.at(-0.3, 25.3), tower.at(3, 37), tower.at(6.3, 25.3)], "#5f8a80")
    pen.polygon([tower.at(-0.3, 25.3), tower.at(3, 37), tower.at(2.2, 25.3)], "#48706a")
    (x, y), r = tower.at(3, 21.4), 20
    pen.ellipse((x - r, y - r, x + r, y + r), "#f7f0df", "#6a5340", 3)
    pen.line([(x, y - 13), (x, y), (x + 9, y + 4)], "#4a3a30", 3)


def facade(pen: ImageDraw.ImageDraw, x: float, z: float, wide: float, color: str, light: float, tall: float) -> None:
    """One house front along the street: plinth, shop or door, three storeys of windows, cornice, roof."""
    wall = Wall((x, 0, z), (0, 0, 1))
    wall.box(pen, shade(color, light), 0, 0, (wide, tall))
    wall.box(pen, shade("#7c6c62", light), 0, 0, (wide, 0.7))
    for v in (3.4, tall - 0.5):
        wall.box(pen, shade("#f2e8da", light), 0, v, (wide, 0.28))
    for storey in range(3):
        low = 0.9 if storey == 0 else 1.2 + 2.75 * storey
        for u in np.arange(0.7, wide - 1.2, 1.95):
            wall.box(pen, shade("#f4ece0", light), u - 0.12, low - 0.12, (1.34, 2.0))
            wall.box(pen, shade("#4d6a86", light), u, low, (1.1, 1.76))
            wall.box(pen, shade("#a9c6da", light), u + 0.06, low + 0.95, (0.98, 0.72))
            wall.box(pen, shade("#f4ece0", light), u + 0.5, low, (0.1, 1.76))
    if int(z) % 2 == 0:
        for stripe in range(int(wide / 0.5)):
            tone = shade("#c8473f" if stripe % 2 else "#f6eee2", light)
            toward = -np.sign(x) * 1.2
            top, low = (x, 3.3), (x + toward, 2.7)
            near, far = z + stripe * 0.5, z + stripe * 0.5 + 0.5
            pen.polygon([see(*top, near), see(*top, far), see(*low, far), see(*low, near)], tone)
    roof = shade("#7d4a42", light)
    pen.polygon([wall.at(0, tall), wall.at(wide, tall), see(x + np.sign(x) * 2.5, tall + 2.4, z + wide),
                 see(x + np.sign(x) * 2.5, tall + 2.4, z)], roof)  # fmt: skip


def textured(paint: Paint) -> Image.Image:
    """Paint on a layer and roughen it, so that plaster is not flat."""
    image = layer(SIZE, paint)
    rough = 0.86 + 0.24 * noise(SIZE, (30, 40), 31, 4)
    pixels = np.asarray(image).astype(float)
    pixels[..., :3] *= rough[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


def tram(pen: ImageDraw.ImageDraw) -> None:
    """A red tram that comes towards us: left side in shade, front in light."""
    left, front = Wall((0.5, 0.35, 9), (0, 0, 1)), Wall((0.5, 0.35, 9), (1, 0, 0))
    left.box(pen, "#8e1f22", 0, 0, (9, 2.9))
    left.box(pen, "#d9c9b4", 0, 1.15, (9, 0.14))
    for u in np.arange(0.4, 8.4, 1.25):
        left.box(pen, "#2b3a4a", u, 1.4, (1.05, 1.05))
        left.box(pen, "#6d8698", u + 0.05, 1.95, (0.95, 0.45))
    left.box(pen, "#4a3b3b", 0, -0.3, (9, 0.32))
    pen.polygon([front.at(0, 2.9), front.at(0.25, 3.2), front.at(2.05, 3.2), front.at(2.3, 2.9)], "#d9d2c6")
    front.box(pen, "#c62a2b", 0, 0, (2.3, 2.9))
    front.box(pen, "#e2443f", 0.08, 0.2, (2.14, 0.85))
    front.box(pen, "#efe3cf", 0, 1.1, (2.3, 0.14))
    front.box(pen, "#22303d", 0.14, 1.38, (2.02, 1.12))
    front.box(pen, "#7fa0b5", 0.2, 1.85, (0.62, 0.6))
    front.box(pen, "#8fb0c4", 0.88, 1.95, (0.56, 0.5))
    front.box(pen, "#7fa0b5", 1.5, 1.85, (0.6, 0.6))
    front.box(pen, "#1c1c1f", 0.6, 2.56, (1.1, 0.28))
    front.box(pen, "#ffb84d", 0.7, 2.62, (0.9, 0.16))
    front.box(pen, "#3a3230", 0.1, -0.28, (2.1, 0.3))
    for u in (0.36, 1.94):
        (x, y), r = front.at(u, 0.62), 13
        pen.ellipse((x - r, y - r, x + r, y + r), "#fff6d8", "#5e1416", 3)
    pen.line([front.at(1.15, 3.2), see(1.9, 4.4, 11), see(1.65, 5.55, 10.2)], "#38383c", 4)


def street_lamp(pen: ImageDraw.ImageDraw) -> None:
    """A cast-iron lamp on the left pavement."""
    foot, top = see(-2.9, 0, 7), see(-2.9, 4.3, 7)
    pen.line([foot, top], "#23282d", 11)
    pen.line([(foot[0] + 3, foot[1]), (top[0] + 3, top[1])], "#59636b", 3)
    pen.rectangle((foot[0] - 13, foot[1] - 46, foot[0] + 13, foot[1]), "#23282d")
    x, y = top
    pen.polygon([(x - 20, y), (x + 20, y), (x + 28, y - 58), (x - 28, y - 58)], "#fdf1cc", "#23282d")
    pen.polygon([(x - 34, y - 58), (x, y - 88), (x + 34, y - 58)], "#23282d")


def tree() -> Image.Image:
    """A tree on the right pavement: leaves in clumps, dark below, lit from the upper left."""
    rng = np.random.default_rng(12)
    x, y = see(2.5, 0.1, 5.4)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        pen.polygon([(x - 26, y), (x + 28, y), (x + 13, y - 420), (x - 13, y - 420)], "#5b4536")
        pen.polygon([(x - 26, y), (x - 10, y), (x - 4, y - 420), (x - 13, y - 420)], "#86684f")
        for end in ((-90, -560), (90, -580), (10, -620)):
            pen.line([(x, y - 380), (x + end[0], y + end[1])], "#5b4536", 14)
        for _ in range(2600):
            clump = ((0, -640), (-110, -560), (115, -570), (-50, -740), (70, -730), (0, -520))[rng.integers(6)]
            angle, far = rng.uniform(0, 2 * np.pi), 105 * rng.random() ** 0.5
            dx, dy = far * np.cos(angle), far * np.sin(angle) * 0.85
            light = 0.62 - (dx + 1.3 * dy) / 330 - (clump[1] + 640) / 900 + rng.uniform(-0.12, 0.12)
            u, v, r = x + clump[0] + dx, y + clump[1] + dy, rng.uniform(5, 11)
            pen.ellipse((u - r, v - r * 0.7, u + r, v + r * 0.7), shade("#86b84e", max(0.28, light)))

    return layer(SIZE, paint, 0.7)
