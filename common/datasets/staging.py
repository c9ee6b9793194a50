"""Collects preprocessed pictures on disk one by one, then writes those that are kept as arrays."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 16 * 2**20  # copied at once, so that memory does not grow with the shard


class Staging:
    """Two raw files that grow by one picture, or one mask, at a time."""

    def __init__(self, folder: Path, *, size_px: int, channels: int) -> None:
        """Open the raw files in an existing folder."""
        self._image_shape = (size_px, size_px, channels)
        self._mask_shape = (size_px, size_px)
        self._image_path, self._mask_path = folder / "images.raw", folder / "masks.raw"
        self._images = self._image_path.open("wb")
        self._masks = self._mask_path.open("wb")
        self._folder = folder

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close and delete the raw files."""
        self._images.close()
        self._masks.close()
        self._image_path.unlink()
        self._mask_path.unlink()

    def add(self, image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]]) -> None:
        """Append one picture (S, S, C) and its masks (S, S)."""
        self._images.write(np.ascontiguousarray(image).data)
        for mask in masks:
            self._masks.write(np.ascontiguousarray(mask).view(np.uint8).data)

    def write(self, *, pictures: NDArray[np.int64], masks: NDArray[np.int64]) -> None:
        """Write ``images.npy`` and ``region_masks.npy`` with these rows, in this order."""
        self._images.flush()
        self._masks.flush()
        _copy(self._image_path, self._folder / "images.npy", self._image_shape, pictures)
        _copy(self._mask_path, self._folder / "region_masks.npy", self._mask_shape, masks)


def _copy(raw: Path, out: Path, shape: tuple[int, ...], rows: NDArray[np.int64]) -> None:
    """Copy rows of a raw file of uint8 items of one shape into an array file."""
    if not len(rows):
        np.save(out, np.zeros((0, *shape), dtype=np.uint8), allow_pickle=False)
        return
    staged = np.memmap(raw, dtype=np.uint8, mode="r").reshape(-1, *shape)
    written = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=(len(rows), *shape))
    block = max(1, BLOCK_BYTES // int(np.prod(shape)))
    for start in range(0, len(rows), block):
        written[start : start + block] = staged[rows[start : start + block]]
    written.flush()
