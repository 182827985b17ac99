"""Painting with numpy and PIL: gradients, soft noise, blurred layers, water that mirrors."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter

Field = NDArray[np.float64]
Color = str | tuple[int, ...]
Paint = Callable[[ImageDraw.ImageDraw], None]


def gradient(size: tuple[int, int], stops: Sequence[tuple[float, str]]) -> Image.Image:
    """Return a vertical gradient through (height 0..1, colour) stops, RGB."""
    at = np.linspace(0, 1, size[1])
    knots = np.array([ImageColor.getrgb(color) for _, color in stops])
    rows = np.stack([np.interp(at, [stop for stop, _ in stops], knots[:, c]) for c in range(3)], axis=1)
    return Image.fromarray(np.repeat(rows[:, None].astype(np.uint8), size[0], axis=1))


def noise(size: tuple[int, int], cells: tuple[int, int], seed: int, octaves: int = 4) -> Field:
    """Return fractal noise [height, width] in 0..1; cells = coarsest grid (across, down)."""
    rng, total = np.random.default_rng(seed), np.zeros((size[1], size[0]))
    for octave in range(octaves):
        coarse = rng.random((cells[1] << octave, cells[0] << octave)).astype(np.float32)
        fine = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(fine, dtype=np.float64) / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def tint(base: Image.Image, color: Color, amount: Field) -> Image.Image:
    """Blend a colour over a picture by an amount [height, width] in 0..1."""
    mask = Image.fromarray((amount.clip(0, 1) * 255).astype(np.uint8))
    return Image.composite(Image.new("RGB", base.size, color), base, mask)


def glow(base: Image.Image, at: tuple[float, float], radius: float, color: str, strength: float) -> Image.Image:
    """Blend a round light that fades from its centre."""
    y, x = np.mgrid[: base.height, : base.width]
    return tint(base, color, strength * np.exp(-np.hypot(x - at[0], y - at[1]) / radius))


def layer(size: tuple[int, int], paint: Paint, blur: float = 0) -> Image.Image:
    """Paint on a transparent layer, RGBA, and soften it."""
    blank = Image.new("RGBA", size)
    paint(ImageDraw.Draw(blank, "RGBA"))
    soft = blank.convert("RGBa").filter(ImageFilter.GaussianBlur(blur))  # premultiplied: no dark rims
    return soft.convert("RGBA")


def over(base: Image.Image, *layers: Image.Image) -> Image.Image:
    """Put layers on a picture."""
    for top in layers:
        base = Image.alpha_composite(base.convert("RGBA"), top).convert("RGB")
    return base


def mirrored(picture: Image.Image, waterline: int, seed: int, sway: float) -> Image.Image:
    """Mirror a picture at a row and let ripples push its rows and columns about, more so near the viewer."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    y, x = np.mgrid[waterline:height, :width]
    depth = (y - waterline) / (height - waterline)
    wave = noise((width, height - waterline), (10, 60), seed, 2) - 0.5
    row = 2 * waterline - y + wave * sway * 2 * (0.3 + depth)
    column = x + wave * sway * (0.3 + depth)
    sample = pixels[row.clip(0, height - 1).astype(int), column.clip(0, width - 1).astype(int)]
    return Image.fromarray(np.concatenate([np.zeros_like(pixels[:waterline]), sample]))


def finish(picture: Image.Image, size: tuple[int, int], seed: int) -> Image.Image:
    """Scale down from the double size it was painted at; add grain and darker corners."""
    small = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float64)
    y, x = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    shade = 1 - 0.16 * (x**2 + y**2)[..., None]
    grain = np.random.default_rng(seed).normal(0, 2.2, (*small.shape[:2], 1))
    return Image.fromarray((small * shade + grain).clip(0, 255).astype(np.uint8))
