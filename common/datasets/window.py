"""Scales wide grey values to eight bits by a robust window."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

LOW_PERCENTILE = 0.5  # a burnt-in marker or a collimated border must not set the window
HIGH_PERCENTILE = 99.5


def window_to_8_bit(
    values: NDArray[np.float32], *, path: Path, counted: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Map the 0.5th..99.5th percentile of (H, W) grey values linearly to 0..255, clipping the rest.

    Where the two percentiles coincide (almost all pixels are equal) the extremes are taken; a
    picture of one value becomes black. ``counted`` (H, W) says which pixels the percentiles are
    taken from.

    Raises DataError for values that are not finite.
    """
    if not np.isfinite(values).all():
        raise DataError(f"{path}: some pixels are not finite numbers; export the picture again.")
    inside = values if counted is None or not counted.any() else values[counted]
    low, high = np.percentile(inside, (LOW_PERCENTILE, HIGH_PERCENTILE))
    if low == high:
        low, high = inside.min(), inside.max()
    if low == high:
        return np.zeros(values.shape, dtype=np.uint8)
    scaled = (values - low) * (255.0 / (high - low))
    window: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return window
