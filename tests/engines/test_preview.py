import numpy as np
import pytest
from PIL import Image

from engines.preview import GAP, MARGIN, Case, lit, preview

GRID = (4, 6)


def colorful(width, height):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(90, 256, (height, width, 3), dtype=np.uint8))


def inner(pixels, patch, side):
    """Pixels of a patch without its outline."""
    row, column = divmod(patch, GRID[1])
    return pixels[row * side + 1 : (row + 1) * side - 1, column * side + 1 : (column + 1) * side - 1].astype(int)


def test_kept_patches_are_untouched_and_dropped_ones_dim_and_grey():
    picture, kept = colorful(96, 64), [0, 7, 8, 23]
    before, after = np.asarray(picture), np.asarray(lit(picture, GRID, kept))
    for patch in range(24):
        old, new = inner(before, patch, 16), inner(after, patch, 16)
        if patch in kept:
            assert (new == old).all()
        else:
            assert (new.max(axis=2) - new.min(axis=2) < 12).all()
            assert new.mean() < old.mean() * 0.55


def test_outlines_are_bright_only_towards_dropped_patches():
    after = np.asarray(lit(Image.new("RGB", (96, 64), (100, 100, 100)), GRID, [7, 8])).astype(int)
    middle = 24  # a row through patches 7 and 8, which meet between columns 31 and 32
    assert after[middle, 16, 0] > 200
    assert 100 < after[middle, 31, 0] < 140


def test_patches_that_do_not_divide_the_picture():
    assert lit(colorful(101, 67), GRID, [5, 23]).size == (101, 67)


def test_patches_beyond_the_grid_are_refused():
    for patch in (24, -1):
        with pytest.raises(ValueError, match="4 x 6 grid"):
            lit(colorful(96, 64), GRID, [patch])


@pytest.mark.parametrize(("side", "panel"), [(96, 384), (336, 672), (400, 400)])
def test_panels_are_large_enough(tmp_path, side, panel):
    picture = colorful(side, side)
    preview([Case(picture, (12, 12), range(64), "what color is the star ?", "yellow")], tmp_path / "p.png")
    sheet = Image.open(tmp_path / "p.png")
    assert sheet.format == "PNG"
    assert sheet.width == 2 * panel + GAP + 2 * MARGIN
    shown = sheet.crop((MARGIN, MARGIN, MARGIN + panel, MARGIN + panel)).resize((side, side), Image.Resampling.BOX)
    blur = np.abs(np.asarray(shown).astype(int) - np.asarray(picture)).max()
    assert blur == 0 if side != 336 else blur < 130  # pixel by pixel where tiny, smooth where not


def test_each_case_has_its_row_and_caption(tmp_path):
    one = Case(colorful(96, 96), (12, 12), [1], "a ?", "b")
    preview([one], tmp_path / "one.png")
    preview([one, one], tmp_path / "two.png")
    single, double = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "two.png")
    assert double.height == 2 * single.height - MARGIN
    caption = np.asarray(single)[MARGIN + 384 + 8 : -MARGIN]
    left, right = caption[:, : MARGIN + 384], caption[:, MARGIN + 384 + GAP :]
    assert left.max() > 200
    assert right.max() > 100


def test_endless_words_stay_in_their_panel(tmp_path):
    preview([Case(colorful(96, 96), (12, 12), [1], "w" * 400, "x y " * 300)], tmp_path / "p.png")
    sheet = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    gap = sheet[MARGIN + 384 + 40 :, MARGIN + 384 + 2 : MARGIN + 384 + GAP]
    assert np.ptp(gap, axis=(0, 1)).max() == 0
