"""An anti-aliased drawing board for lines and outlines given in picture units."""

import numpy as np
from PIL import Image, ImageDraw

from common.datasets.phantom.fields import Field


class Canvas:
    """Draws on a finer raster and averages down; later strokes replace earlier ones."""

    def __init__(self, size_px: int) -> None:
        """Open an empty board for a picture of ``size_px`` x ``size_px`` pixels."""
        # Finer than 3x is invisible; above 128 px 2x suffices and halves the time.
        self._finer = 3 if size_px <= 128 else 2
        self._side = size_px * self._finer
        self._image = Image.new("L", (self._side, self._side), 0)
        self._pen = ImageDraw.Draw(self._image)

    def lines(self, paths: np.ndarray, *, width: float, value: float = 1.0) -> None:
        """Draw B lines through (B, N, 2) points; ``width`` in picture widths, value in [0, 1]."""
        wanted = width * self._side
        drawn = max(1, round(wanted))
        # A line thinner than the raster gets fainter instead of wider.
        ink = round(255 * value * min(1.0, wanted / drawn))
        for path in (paths.reshape(len(paths), -1) * self._side - 0.5).tolist():
            self._pen.line(path, fill=ink, width=drawn)

    def tapered(self, paths: np.ndarray, *, width: float, pieces: int = 3) -> None:
        """Draw B lines that thin out towards their ends, (B, N, 2) points."""
        stride = (paths.shape[1] - 1) // pieces
        # Thin ends first: the canvas keeps the last stroke.
        for piece in reversed(range(pieces)):
            part = paths[:, piece * stride : (piece + 1) * stride + 1]
            self.lines(part, width=width * (1.0 - 0.6 * piece / pieces))

    def fill(self, points: np.ndarray, *, value: float = 1.0) -> None:
        """Fill the outline through (N, 2) points."""
        self._pen.polygon(self._flat(points), fill=round(255 * value))

    def ellipses(
        self,
        centres: np.ndarray,
        *,
        rx: np.ndarray,
        ry: np.ndarray,
        angle: np.ndarray,
        value: np.ndarray,
        corners: int = 8,
    ) -> None:
        """Fill N rotated ellipses: (N, 2) centres, the rest (N,); later ones lie on top."""
        turn = np.linspace(0.0, 2.0 * np.pi, corners, endpoint=False)
        along, across = rx[:, None] * np.cos(turn), ry[:, None] * np.sin(turn)  # (N, corners)
        cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
        outlines = centres[:, None] + np.stack(
            (along * cosine - across * sine, along * sine + across * cosine), axis=-1
        )
        flat = (outlines.reshape(len(centres), -1) * self._side - 0.5).tolist()
        inks = np.rint(255 * value).astype(int).tolist()
        for outline, ink in zip(flat, inks, strict=True):
            self._pen.polygon(outline, fill=ink)

    def field(self) -> Field:
        """Return what was drawn, (S, S) in [0, 1]."""
        return np.asarray(self._image.reduce(self._finer), dtype=np.float32) / np.float32(255.0)

    def _flat(self, points: np.ndarray) -> list[float]:
        flat: list[float] = (points * self._side - 0.5).ravel().tolist()
        return flat
