"""Pictures that a page carries in itself: as taken, and with the model's own map over it."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import DataError
from common.explanation.schema import GridMap
from common.pages.colours import coloured, cover

OPACITY = 0.6  # with which a page opens


def png_uri(picture: NDArray[np.uint8]) -> str:
    """Return a picture (S, S, 1 or 3) as a ``data:`` address. Raises DataError for other shapes."""
    _check(picture)
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    content = io.BytesIO()
    image.save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def overlaid(picture: NDArray[np.uint8], grid: GridMap) -> NDArray[np.uint8]:
    """Return the picture (S, S, 3) with what a map says for its finding laid over it.

    Raises DataError for a picture of another shape than (S, S, 1 or 3).
    """
    _check(picture)
    values = np.maximum(np.array(grid.values).reshape(grid.rows, grid.columns), 0)
    strength = values / values.max() if values.max() > 0 else values
    # Bilinear between the cells' centres, as the page's canvas does it.
    side = (picture.shape[1], picture.shape[0])
    drawn = Image.fromarray(strength.astype(np.float32)).resize(side, Image.Resampling.BILINEAR)
    fine = np.clip(np.asarray(drawn, dtype=np.float64), 0, 1)
    alpha = cover(fine, opacity=OPACITY)[..., None]
    mixed = (1 - alpha) * np.broadcast_to(picture, (*picture.shape[:2], 3)) + alpha * coloured(fine)
    return np.asarray(np.round(mixed), dtype=np.uint8)


def _check(picture: NDArray[np.uint8]) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise DataError(
            f"a page shows a picture (S, S, 1 or 3) of bytes, got {picture.shape} of "
            f"{picture.dtype}. Give the prepared picture before it becomes a tensor."
        )
