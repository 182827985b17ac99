"""One picture that shows what pruning kept: each input as it is, and with the dropped patches dimmed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

GROUND, INK, FAINT, ACCENT = "#14171c", "#e8eaee", "#8b93a1", "#ffc24b"
SIDE = 384  # least width and height of a panel, pixels
TINY = 200  # below this a picture is enlarged pixel by pixel
MARGIN, GAP, LINE, LINES = 28, 20, 24, 3
FONT_SIZE = 17


@dataclass(frozen=True)
class Case:
    """A picture as the model sees it (RGB), its patch grid (rows, columns), kept patch numbers, the talk."""

    picture: Image.Image
    grid: tuple[int, int]
    kept: Sequence[int]
    question: str = ""
    answer: str = ""


def preview(cases: Sequence[Case], path: Path) -> None:
    """Write a PNG with one row for each case: the picture, the picture with its kept patches lit, a caption.

    Raises:
        ValueError: a kept patch is not on the grid.
    """
    rows = [_row(case) for case in cases]
    width = max(row.width for row in rows) + 2 * MARGIN
    sheet = Image.new("RGB", (width, sum(row.height for row in rows) + MARGIN * (len(rows) + 1)), GROUND)
    top = MARGIN
    for row in rows:
        sheet.paste(row, (MARGIN, top))
        top += row.height + MARGIN
    sheet.save(path, format="PNG", optimize=True)


def lit(picture: Image.Image, grid: tuple[int, int], kept: Sequence[int]) -> Image.Image:
    """Dim and grey what was dropped; outline every kept patch, brighter where it borders on dropped ones."""
    mask = np.zeros(grid[0] * grid[1], dtype=bool)
    if any(not 0 <= patch < mask.size for patch in kept):
        raise ValueError(f"kept patches beyond the {grid[0]} x {grid[1]} grid")
    mask[list(kept)] = True
    mask = mask.reshape(grid)
    across, down = _edges(picture.width, grid[1]), _edges(picture.height, grid[0])
    full = mask.repeat(np.diff(down), axis=0).repeat(np.diff(across), axis=1)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    dim = grey * 0.34 + np.array(ImageColor.getrgb(GROUND)) * 0.55
    shown = np.where(full[..., None], np.asarray(picture.convert("RGB")), dim).astype(np.uint8)
    return _outlined(Image.fromarray(shown), mask, across, down)


def _edges(length: int, parts: int) -> list[int]:
    return [round(i * length / parts) for i in range(parts + 1)]


def _outlined(picture: Image.Image, mask: NDArray[np.bool_], across: list[int], down: list[int]) -> Image.Image:
    pen = ImageDraw.Draw(picture, "RGBA")
    padded = np.pad(mask, 1)
    for r, c in np.argwhere(mask).tolist():
        left, right, top, bottom = across[c], across[c + 1] - 1, down[r], down[r + 1] - 1
        pen.rectangle((left, top, right, bottom), outline=(255, 255, 255, 34))
        sides = (
            (padded[r, c + 1], (left, top, right, top)),
            (padded[r + 2, c + 1], (left, bottom, right, bottom)),
            (padded[r + 1, c], (left, top, left, bottom)),
            (padded[r + 1, c + 2], (right, top, right, bottom)),
        )
        for neighbour, line in sides:
            if not neighbour:
                pen.line(line, fill=(255, 214, 128, 200))
    return picture


def _row(case: Case) -> Image.Image:
    scale = -(-SIDE // min(case.picture.size))
    size = (case.picture.width * scale, case.picture.height * scale)
    how = Image.Resampling.NEAREST if min(case.picture.size) < TINY else Image.Resampling.LANCZOS
    panel = case.picture.convert("RGB").resize(size, how)
    font = ImageFont.load_default(FONT_SIZE)
    said = [(line, INK) for line in _wrapped(case.question, font, size[0])]
    said += [(line, ACCENT) for line in _wrapped(case.answer, font, size[0])]
    row = Image.new("RGB", (2 * size[0] + GAP, size[1] + 12 + LINE * max(1, len(said))), GROUND)
    row.paste(panel, (0, 0))
    row.paste(lit(panel, case.grid, case.kept), (size[0] + GAP, 0))
    pen = ImageDraw.Draw(row)
    for number, (line, color) in enumerate(said):
        pen.text((0, size[1] + 12 + LINE * number), line, color, font)
    count = f"{len(case.kept)} of {case.grid[0] * case.grid[1]} patches"
    pen.text((size[0] + GAP, size[1] + 12), count, FAINT, font)
    return row


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a text into at most LINES lines of so many pixels; an ellipsis stands for the rest."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1] + " ..."]
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while font.getlength(line) > width:
        line = line.removesuffix(" ...")[:-1] + " ..."
    return line
