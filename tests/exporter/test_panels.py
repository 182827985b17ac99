"""What of a picture's views is drawn where."""

import numpy as np
import pytest
from PIL import Image

from engines.preview import Case, preview
from exporter.form import Form
from exporter.panels import WIDEST, panels
from exporter.reducer import Grid

GRID = Grid(2, 2)


def views(count, side=4):
    """Squares of different greys."""
    return [Image.new("RGB", (side, side), (10 * number,) * 3) for number in range(count)]


def greys(picture, side=4):
    """The grey of every view on a sheet."""
    return (np.asarray(picture)[::side, ::side, 0] // 10).tolist()


def test_a_whole_picture_is_itself():
    [panel] = panels(views(1), Form(), GRID, [0, 3])
    assert panel == (views(1)[0], GRID, [0, 3])


def test_tiles_are_a_canvas_below_the_whole_picture():
    whole, canvas = panels(views(5), Form(views=5, tiles=(2, 2)), GRID, [1, 4, 9, 14, 19])
    assert (whole.grid, whole.kept, greys(whole.picture)) == (GRID, [1], [[0]])
    assert canvas.grid == (4, 4)
    assert greys(canvas.picture) == [[1, 2], [3, 4]]
    assert canvas.kept == [0, 3, 12, 15]  # a corner of each tile


@pytest.mark.parametrize(
    ("frames", "layout"), [(2, (1, 2)), (8, (2, 4)), (7, (1, 7)), (16, (4, 4)), (12, (3, 4)), (9, (3, 3))]
)
def test_frames_stand_in_rows(frames, layout):
    [panel] = panels(views(frames), Form(kind="video", views=frames), GRID, [0, 4 * frames - 1])
    assert panel.grid == (2 * layout[0], 2 * layout[1])
    assert [grey for row in greys(panel.picture) for grey in row] == list(range(frames))
    assert panel.kept == [0, panel.grid.rows * panel.grid.cols - 1]


def test_of_frames_that_make_one_view_together_the_first_is_drawn():
    [panel] = panels(views(8), Form(kind="video", views=4), GRID, [])
    assert greys(panel.picture) == [[0, 2], [4, 6]]


def test_many_large_frames_are_shrunk():
    [panel] = panels(views(64, 336), Form(kind="video", views=64), GRID, [255])
    assert panel.picture.size == (WIDEST, WIDEST)
    assert panel.kept == [255]


def test_all_panels_can_be_previewed(tmp_path):
    made = panels(views(4, 20), Form(views=4, tiles=(3, 1)), GRID, range(16))
    preview([Case(*panel) for panel in made], tmp_path / "preview.png")
    assert Image.open(tmp_path / "preview.png").width > 2 * 384
