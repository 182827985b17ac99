"""Tiles of a picture: the order of their rows, and the rows that end the lines of the canvas."""

import numpy as np
import pytest
import torch

from exporter.reducer import Grid
from exporter.tiles import canvas_places, stitched, with_newlines
from tests.exporter.methods.common import GOLDEN, exported

SHAPES = [(Grid(2, 2), (1, 2)), (Grid(2, 3), (2, 2)), (Grid(3, 2), (3, 1)), (Grid(1, 1), (2, 3))]


def test_the_order_that_the_authors_feed_the_decoder():
    """FasterVLM's own spliced prompt for a picture of 2x2 tiles, rebuilt from its hidden states and kept patches."""
    case = np.load(GOLDEN / "fastervlm" / "case1.npz")
    kept, hidden = torch.from_numpy(case["kept_indices"]), torch.from_numpy(case["hidden_sel"])[:, 1:]
    rows = torch.stack([view[picks] for view, picks in zip(hidden, kept, strict=True)]).flatten(0, 1)
    order = stitched(kept[None], Grid(*case["grid"].tolist()), tuple(case["tile_grid_hw"].tolist()))[0]
    at = case["input_ids"][0].tolist().index(int(case["image_token_index"]))
    assert torch.equal(rows[order], torch.from_numpy(case["inputs_embeds"])[0, at : at + len(rows)])


@pytest.mark.parametrize(("grid", "tiles"), SHAPES)
def test_uncut_tiles_follow_the_canvas(grid, tiles):
    """As `LlavaNextModel.pack_image_features` lays them out, without its last step."""
    patches, count = grid.rows * grid.cols, tiles[0] * tiles[1]
    kept = torch.arange(patches).expand(2, 1 + count, -1)
    numbers = torch.arange(patches, (1 + count) * patches)
    canvas = numbers.view(*tiles, *grid, 1).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)[0]
    want = [*range(patches), *canvas.flatten().tolist()]
    assert stitched(kept, grid, tiles).tolist() == [want, want]
    assert numbers[canvas_places(grid, tiles).argsort()].tolist() == canvas.flatten().tolist()


def test_cls_rows_then_merged_ones_stand_behind_the_canvas():
    """VisionZip's views: [CLS], two patches, two merged rows; the whole picture stays as it is."""
    grid, tiles = Grid(2, 2), (1, 2)
    kept = torch.tensor([[[-1, 0, 3, -1, -1], [-1, 1, 2, -1, -1], [-1, 0, 1, -1, -1]]])
    order = stitched(kept, grid, tiles)[0].tolist()
    assert order[:5] == [0, 1, 2, 3, 4]
    # line 0 of the canvas: 1 of the first tile, 0 and 1 of the second; line 1: 2 of the first
    assert order[5:9] == [6, 11, 12, 7]
    assert order[9:11] == [5, 10]
    assert order[11:] == [8, 9, 13, 14]


def test_empty_slots_come_last_and_keep_their_order():
    kept = torch.tensor([[[2, 0, -2], [3, -2, -2], [-1, 1, -2]]])
    assert stitched(kept, Grid(2, 2), (2, 1))[0].tolist() == [0, 1, 2, 3, 7, 6, 4, 5, 8]


@pytest.mark.parametrize(("grid", "tiles"), SHAPES)
def test_any_selection_is_a_permutation_and_the_same_in_a_graph(grid, tiles):
    patches, count = grid.rows * grid.cols, tiles[0] * tiles[1]
    source = torch.Generator().manual_seed(patches)
    picks = torch.stack([torch.randperm(patches, generator=source) for _ in range(3 * (1 + count))])
    marks = torch.randint(-2, 2, picks.shape, generator=source)
    kept = torch.where(marks < 0, marks, picks).reshape(3, 1 + count, patches)
    order = exported(lambda marks: stitched(marks, grid, tiles), kept)
    assert order.sort(-1).values.tolist() == [list(range((1 + count) * patches))] * 3
    alone = torch.cat([stitched(each[None], grid, tiles) for each in kept])
    assert torch.equal(order, alone)
    first = kept.flatten(1).gather(1, order)[:, patches:]
    rank = torch.where(first >= 0, 0, -first)  # patches, made rows, empty slots
    assert torch.equal(rank, rank.sort(-1).values)


def test_every_line_of_the_canvas_ends_in_a_newline():
    grid, tiles = Grid(2, 2), (1, 2)
    rows = torch.arange(12.0).reshape(1, 12, 1).expand(2, -1, 3)
    done = with_newlines(rows, torch.full((3,), -5.0), grid, tiles)
    assert done[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, -5, 8, 9, 10, 11, -5]
    assert torch.equal(done[0], done[1])
