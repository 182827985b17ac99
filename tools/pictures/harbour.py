"""Draws a harbour at dusk: lighthouse, boats, a jetty, and the sky in the water."""

import numpy as np
from pictures.canvas import finish, glow, gradient, layer, mirrored, noise, over, tint
from PIL import Image, ImageDraw

SIZE = (1280, 960)
WATER = 500  # row of the waterline
SUN = (950, 425)


def draw_harbour() -> Image.Image:
    """Return the picture, 640x480."""
    shore = over(sky(), hills(), layer(SIZE, headland), layer(SIZE, lighthouse))
    shore = glow(glow(shore, (262, 192), 26, "#fff3c4", 0.95), (262, 192), 120, "#ffd98a", 0.35)
    scene = water(shore)
    for paint, line in ((sloop, 590), (far_boats, 520), (trawler, 745)):
        boat = layer(SIZE, paint)
        image = np.asarray(mirrored(boat, line, line, 16)).copy()
        image[..., 3] = image[..., 3] * np.linspace(1, 0, SIZE[1])[:, None] ** 0.4 * 0.6
        scene = over(scene, Image.fromarray(image), boat)
    scene = over(scene, layer(SIZE, jetty))
    return finish(glow(scene, (1140, 588), 60, "#ffcf7a", 0.75), (640, 480), 1)


def sky() -> Image.Image:
    """Dusk from indigo to gold, streaks of lit cloud, a low sun."""
    stops = [
        (0, "#1d2450"),
        (0.2, "#4a3f78"),
        (0.36, "#a3567f"),
        (0.46, "#e98a5b"),
        (0.53, "#ffd27d"),
        (1, "#ffd27d"),
    ]
    picture = gradient(SIZE, stops)
    cloud = (noise(SIZE, (3, 14), 5, 5) - 0.5).clip(0, 1) * 2.6
    high = np.linspace(1, -1, SIZE[1])[:, None].clip(0, 1)
    picture = tint(picture, "#2b2a55", cloud * high)
    picture = tint(picture, "#ff9d7c", (noise(SIZE, (4, 26), 9, 4) - 0.56).clip(0, 1) * 2.6 * (1 - high))
    picture = glow(picture, SUN, 210, "#ffb15e", 0.75)
    disc = layer(SIZE, lambda pen: pen.ellipse((SUN[0] - 34, SUN[1] - 34, SUN[0] + 34, SUN[1] + 34), "#fff0c0"), 3)
    return over(picture, disc)


def hills() -> Image.Image:
    """Two ranges of hills, the far one paler."""

    def paint(pen: ImageDraw.ImageDraw) -> None:
        for color, top, rise, seed in (("#9a5f7e", 455, 90, 3), ("#5d4068", 480, 70, 8)):
            ridge = top - rise * (noise((SIZE[0], 1), (5, 1), seed, 5)[0] - 0.35)
            pen.polygon([(0, WATER), *enumerate(ridge.tolist()), (SIZE[0], WATER)], color)

    return layer(SIZE, paint, 1.5)


def headland(pen: ImageDraw.ImageDraw) -> None:
    """Rocks on the left, lit from the right."""
    rng = np.random.default_rng(4)
    ridge = [(x, WATER + 6 - 118 * max(0.0, 1 - (x / 550) ** 4) - rng.uniform(0, 14)) for x in range(0, 566, 12)]
    pen.polygon([(0, WATER + 6), *ridge, (566, WATER + 6)], "#33283f")
    for x, y in ridge:
        for _ in range(9):
            u, v, r = x + rng.uniform(-14, 14), rng.uniform(min(y + 6, WATER), WATER + 4), rng.uniform(5, 16)
            pen.polygon([(u - r, v + r / 2), (u - r / 3, v - r / 2), (u + r, v)], "#4b3749")
            pen.polygon([(u + r, v), (u - r / 3, v - r / 2), (u + r / 2, v - r / 2)], "#a8675c")


def lighthouse(pen: ImageDraw.ImageDraw) -> None:
    """A white tower with red bands; the sun side is bright, the other in shade; a keeper's house."""
    pen.rectangle((318, 372, 412, 418), "#d9b7a2")
    pen.polygon([(308, 374), (330, 338), (402, 338), (422, 374)], "#6b3038")
    for x in (332, 362, 390):
        pen.rectangle((x, 384, x + 12, 402), "#ffdf90")
    for y in range(218, 416):
        half = 24 + (y - 218) * 0.09
        for step in range(24):
            side = step / 23
            light = 0.42 + 0.6 * side - 0.25 * max(0.0, side - 0.8)
            base = (200, 62, 58) if (y - 218) // 40 % 2 else (244, 226, 214)
            x = 262 - half + 2 * half * side
            pen.line((x, y, x + 3, y), tuple(int(c * light) for c in base))
    pen.rectangle((230, 208, 294, 220), "#3a2f3d")
    pen.rectangle((246, 176, 278, 208), "#ffe9a8")
    for x in (246, 256, 267, 278):
        pen.line((x, 176, x, 208), "#3a2f3d", 3)
    pen.polygon([(240, 178), (262, 150), (284, 178)], "#7d2b33")


def water(shore: Image.Image) -> Image.Image:
    """The shore upside down, cooler and darker towards the viewer, with glitter under the sun."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    depth = ((y - WATER) / (SIZE[1] - WATER)).clip(0, 1)
    below = tint(mirrored(shore, WATER, 11, 34), "#1b2a4d", 0.14 + 0.5 * depth)
    ripple = noise(SIZE, (9, 90), 13, 3)
    below = tint(below, "#0f1730", (ripple - 0.55).clip(0, 1) * 2 * (0.3 + depth))
    path = np.exp(-(((x - SUN[0]) / (34 + 130 * depth)) ** 2))
    below = tint(below, "#ffdf9c", path * ((ripple - 0.44) * 5).clip(0, 1) * (1 - 0.6 * depth))
    return Image.composite(below, shore, Image.fromarray(((y > WATER) * 255).astype(np.uint8)))


def far_boats(pen: ImageDraw.ImageDraw) -> None:
    """Small sails near the far shore."""
    for x, s, color in ((610, 1.0, "#f6d9b8"), (1010, 0.7, "#e7b49a"), (950, 0.5, "#c98f8b")):
        pen.polygon([(x, 518 - 78 * s), (x, 518 - 10 * s), (x + 34 * s, 518 - 10 * s)], color)
        pen.polygon([(x - 4 * s, 518 - 66 * s), (x - 4 * s, 518 - 10 * s), (x - 22 * s, 518 - 10 * s)], "#b78589")
        pen.polygon(
            [(x - 30 * s, 518 - 8 * s), (x + 38 * s, 518 - 8 * s), (x + 28 * s, 520), (x - 22 * s, 520)],
            "#2f2940",
        )


def sloop(pen: ImageDraw.ImageDraw) -> None:
    """A moored sailing boat with its sail furled."""
    pen.polygon([(560, 560), (748, 556), (730, 592), (584, 592)], "#e9e2dc")
    pen.polygon([(572, 578), (740, 576), (730, 592), (584, 592)], "#27466f")
    pen.polygon([(612, 560), (622, 542), (684, 540), (696, 558)], "#c9bdb4")
    for x in (630, 650, 670):
        pen.rectangle((x, 547, x + 10, 553), "#30354c")
    pen.line((650, 556, 650, 318), "#3c3038", 5)
    pen.line((650, 520, 746, 514), "#3c3038", 5)
    pen.polygon([(652, 518), (744, 512), (740, 500), (652, 504)], "#b5533f")
    for end in ((562, 560), (746, 556)):
        pen.line((650, 322, *end), "#57454c", 2)


def trawler(pen: ImageDraw.ImageDraw) -> None:
    """A red fishing boat in front."""
    pen.polygon([(190, 660), (262, 690), (520, 690), (560, 668), (530, 748), (236, 748)], "#a82f2c")
    pen.polygon(
        [(190, 660), (262, 690), (520, 690), (560, 668), (558, 682), (522, 704), (258, 704), (196, 674)],
        "#f0e4d6",
    )
    pen.polygon([(222, 730), (538, 730), (530, 748), (236, 748)], "#5d1a22")
    pen.polygon([(420, 690), (420, 596), (516, 596), (524, 690)], "#efe7dc")
    pen.polygon([(420, 690), (420, 596), (446, 596), (446, 690)], "#a69aa3")
    pen.rectangle((408, 584, 528, 598), "#2f5670")
    for x in (454, 488):
        pen.rectangle((x, 610, x + 26, 642), "#ffd98a")
    pen.line((372, 690, 372, 520), "#4b3a38", 8)
    pen.line((372, 540, 268, 640), "#4b3a38", 6)
    pen.line((372, 524, 198, 660), "#6b5653", 2)
    pen.line((372, 524, 470, 584), "#6b5653", 2)
    for x, color in ((286, "#d98f3c"), (318, "#3c7a86"), (346, "#c9a04a")):
        pen.rectangle((x, 668, x + 24, 690), color)
    for x in range(286, 540, 62):
        pen.ellipse((x, 700, x + 26, 726), "#1d1a22")
        pen.ellipse((x + 8, 708, x + 18, 718), "#a82f2c")


def jetty(pen: ImageDraw.ImageDraw) -> None:
    """A wooden jetty with posts and a lamp, close to the viewer."""
    for x, y in ((900, 800), (1010, 760), (1100, 726), (1230, 780)):
        pen.rectangle((x, y, x + 30, 960), "#2a2029")
        pen.rectangle((x + 22, y, x + 30, 960), "#5a4047")
    pen.polygon([(820, 960), (1080, 720), (1280, 720), (1280, 960)], "#4a3640")
    for step in range(9):
        y = 720 + step * step * 3.4
        pen.line((1080 - (y - 720) * 260 / 240, y, 1280, y), "#2b1f29", 2 + step // 2)
    pen.line((1140, 760, 1140, 590), "#241c26", 9)
    pen.ellipse((1124, 570, 1156, 606), "#fff0bf")
    pen.polygon([(1116, 576), (1140, 552), (1164, 576)], "#241c26")
