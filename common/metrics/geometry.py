"""Laying a coarse map over a picture: interpolation, cell coverage, regions and their shifts."""

import numpy as np
from numpy.typing import NDArray

from common.metrics.bootstrap import Float64Array

BoolArray = NDArray[np.bool_]

# Interpolating a flat map leaves rounding noise that must not decide where its maximum is.
TIE = 1e-9  # relative to the map's maximum


def upsampled(cells: Float64Array, height: int, width: int) -> Float64Array:
    """Interpolate a map bilinearly, (h, w) -> (height, width).

    Cell centres lie half a cell from the border and values beyond the outer centres are held
    (``align_corners=False`` of torch.nn.functional.interpolate).
    """
    down, across = _linear(cells.shape[0], height), _linear(cells.shape[1], width)
    picture: Float64Array = down @ cells @ across.T
    return picture


def cell_coverage(mask: BoolArray, rows: int, columns: int) -> Float64Array:
    """Return which share of each cell's area the mask covers, (H, W) -> (rows, columns)."""
    return area_means(mask.astype(np.float64), rows, columns)


def area_means(values: Float64Array, rows: int, columns: int) -> Float64Array:
    """Return the mean over each cell's area, (..., H, W) -> (..., rows, columns).

    Exact where cells cut through pixels: a pixel counts by the share of it that the cell covers.
    """
    height, width = values.shape[-2:]
    across = values @ _overlap(columns, width).T  # (..., H, W) -> (..., H, columns)
    cell_px = (height / rows) * (width / columns)
    means: Float64Array = _overlap(rows, height) @ across / cell_px
    return means


def dilated(mask: BoolArray, radius_px: int) -> BoolArray:
    """Return the pixels at most ``radius_px`` away from the mask, (H, W) -> (H, W)."""
    height, width = mask.shape
    padded = np.pad(mask, radius_px)
    grown = np.zeros_like(mask)
    for dy in range(-radius_px, radius_px + 1):
        for dx in range(-radius_px, radius_px + 1):
            if dy * dy + dx * dx <= radius_px * radius_px:
                y, x = radius_px + dy, radius_px + dx
                grown |= padded[y : y + height, x : x + width]
    return grown


def brightest(values: Float64Array, area_px: int) -> Float64Array:
    """Return the region of the ``area_px`` highest pixels as membership in [0, 1], (H, W).

    Pixels tied at the threshold share what area is left, so the sum is always ``area_px``.
    """
    threshold = np.partition(values, values.size - area_px, axis=None)[values.size - area_px]
    slack = TIE * values.max()
    inside = values > threshold + slack
    tied = np.abs(values - threshold) <= slack
    members: Float64Array = inside + tied * ((area_px - inside.sum()) / tied.sum())
    return members


def shifted_overlaps(region: Float64Array, mask: BoolArray) -> Float64Array:
    """Return the region's area inside the mask for each shift of the region, (H, W) -> (H, W).

    Shifts wrap around the borders; the cross-correlation is taken in the frequency domain.
    """
    spectrum = np.conj(np.fft.rfft2(region)) * np.fft.rfft2(mask.astype(np.float64))
    overlaps = np.fft.irfft2(spectrum, s=region.shape)
    return np.clip(overlaps, 0, region.sum())  # rounding may leave -1e-12


def _linear(cells: int, pixels: int) -> Float64Array:
    """Return the weights of linear interpolation along one axis, (pixels, cells)."""
    centre = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    left = np.minimum(np.floor(centre).astype(np.intp), cells - 1)
    right = np.minimum(left + 1, cells - 1)
    weights = np.zeros((pixels, cells))
    np.add.at(weights, (np.arange(pixels), left), 1 - (centre - left))
    np.add.at(weights, (np.arange(pixels), right), centre - left)
    return weights


def _overlap(cells: int, pixels: int) -> Float64Array:
    """Return the length in pixels that each cell shares with each pixel, (cells, pixels)."""
    cell_edges = np.linspace(0, pixels, cells + 1)
    start, end = np.arange(pixels), np.arange(1, pixels + 1)
    shared = np.minimum(cell_edges[1:, None], end) - np.maximum(cell_edges[:-1, None], start)
    length: Float64Array = np.maximum(shared, 0.0)
    return length
