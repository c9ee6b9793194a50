"""Laying maps over pictures agrees with torch and with doing it by hand."""

import numpy as np
import pytest

from common.metrics.geometry import brightest, cell_coverage, dilated, shifted_overlaps, upsampled


@pytest.mark.parametrize("size", [(16, 16), (21, 10), (3, 2)])
def test_upsampling_equals_torchs_bilinear_interpolation(size: tuple[int, int]) -> None:
    import torch

    cells = np.random.default_rng(0).random((4, 5))
    expected = torch.nn.functional.interpolate(
        torch.tensor(cells)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(upsampled(cells, *size), expected.numpy(), atol=1e-12)


def test_cell_coverage_is_the_mean_of_the_mask_in_each_cell() -> None:
    mask = np.random.default_rng(1).random((12, 8)) < 0.5
    expected = mask.reshape(3, 4, 2, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(cell_coverage(mask, 3, 2), expected, atol=1e-12)


def test_cell_coverage_splits_pixels_that_lie_in_two_cells() -> None:
    mask = np.array([[False, True, False]])
    np.testing.assert_allclose(cell_coverage(mask, 1, 2), [[1 / 3, 1 / 3]])


def test_dilation_reaches_pixels_within_the_radius() -> None:
    rng = np.random.default_rng(2)
    mask = rng.random((20, 17)) < 0.02
    seeds = np.argwhere(mask)
    distances = np.linalg.norm(
        np.indices(mask.shape).transpose(1, 2, 0)[:, :, None] - seeds, axis=-1
    ).min(axis=-1)
    np.testing.assert_array_equal(dilated(mask, 3), distances <= 3)


def test_brightest_region_has_the_asked_area_and_shares_ties() -> None:
    region = brightest(np.array([[3.0, 1.0, 1.0], [1.0, 0.0, 2.0]]), 4)
    np.testing.assert_allclose(region, [[1, 2 / 3, 2 / 3], [2 / 3, 0, 1]])


def test_shifted_overlaps_equal_rolling_the_region() -> None:
    rng = np.random.default_rng(3)
    region, mask = rng.random((5, 6)), rng.random((5, 6)) < 0.4
    expected = [
        [np.roll(region, (dy, dx), axis=(0, 1))[mask].sum() for dx in range(6)] for dy in range(5)
    ]
    np.testing.assert_allclose(shifted_overlaps(region, mask), expected, atol=1e-12)
