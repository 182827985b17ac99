"""Bilinear pooling as a matrix: what `interpolate` computes, on odd and even grids."""

import pytest
import torch

from exporter.pooling import pooled_grid, pooling_matrix
from exporter.reducer import Grid

GRIDS = [Grid(27, 27), Grid(24, 24), Grid(3, 3), Grid(4, 4), Grid(5, 2), Grid(2, 7), Grid(1, 1), Grid(1, 6)]


@pytest.mark.parametrize("grid", GRIDS)
def test_it_is_interpolate(grid):
    rows = torch.randn(2, grid.rows * grid.cols, 5, generator=torch.Generator().manual_seed(0))
    image = rows.transpose(1, 2).reshape(2, 5, *grid)
    half = torch.nn.functional.interpolate(image, size=tuple(pooled_grid(grid)), mode="bilinear")
    torch.testing.assert_close(pooling_matrix(grid) @ rows, half.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_pooled_row_is_a_mean(grid):
    matrix, half = pooling_matrix(grid), pooled_grid(grid)
    assert matrix.shape == (half.rows * half.cols, grid.rows * grid.cols)
    assert matrix.dtype == torch.float32
    assert matrix.is_contiguous()
    assert matrix.min() >= 0
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))


def test_half_is_rounded_up():
    assert [pooled_grid(grid) for grid in GRIDS[:4]] == [Grid(14, 14), Grid(12, 12), Grid(2, 2), Grid(2, 2)]


def test_even_grids_give_means_of_four():
    quarter = [[0.25, 0.25, 0, 0, 0.25, 0.25, 0, 0], [0, 0, 0.25, 0.25, 0, 0, 0.25, 0.25]]
    assert pooling_matrix(Grid(2, 4)).tolist() == quarter
