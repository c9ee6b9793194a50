"""Turns a region of a record, a mask file or a box, into pixels of its picture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.datasets.image_file import WIDE_MODES, open_raster
from common.datasets.record import MaskValue, Region
from common.errors import DataError

MAX_INDEX_LEVELS = 16  # more grey levels than this are a blurred black-and-white mask
HALF_WHITE = {8: 128, 16: 32768}


def all_region_pixels(
    regions: Sequence[Region], *, size: tuple[int, int]
) -> list[NDArray[np.bool_]]:
    """Return the regions of one picture of ``size`` (width, height), each (H, W).

    A class mask that several regions share is read once. Raises DataError as
    :func:`region_pixels`.
    """
    shared = {region.mask for region in regions if region.of_class and region.mask}
    values = {path: read_class_mask(path, size=size) for path in sorted(shared)}
    return [
        region_pixels(region, size=size)
        if region.of_class is None or region.mask is None
        else _of_class(values[region.mask], region.of_class, region.mask)
        for region in regions
    ]


def region_pixels(region: Region, *, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a region as (H, W) booleans for a picture of ``size`` (width, height).

    Raises DataError where the mask or the box does not fit the picture, or a class mask holds a
    value that has no meaning.
    """
    if region.mask is not None and region.of_class is not None:
        return _of_class(read_class_mask(region.mask, size=size), region.of_class, region.mask)
    if region.mask is not None:
        return read_mask(region.mask, size=size)
    if region.box is None:
        raise DataError(f"region {region.name!r} has neither a mask nor a box; give one of them.")
    return box_mask(region.box, frame=region.box_frame or size, size=size)


def read_mask(path: Path, *, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return what a mask file marks, as (H, W) booleans.

    Palette and one-bit files mark every index but 0. Grey files of at most 16 levels (0/255, or
    class indices) mark every value but 0; more levels mean that a black-and-white mask was smoothed
    when it was resized, and the brighter half counts. Colour files are read by their brightest
    channel in the same way. Transparency never marks anything: an opaque picture is opaque
    everywhere, so an alpha channel would mark all of it.

    Args:
        path: PNG or TIFF file in the displayed orientation of its picture.
        size: (width, height) of the picture it belongs to.

    Raises:
        DataError: The file is missing, unreadable, a JPEG, of another size, or carries its mask in
            the transparency only.
    """
    with _opened(path, size=size) as picture:
        if picture.mode in ("1", "P"):
            return np.asarray(picture, dtype=np.uint8) > 0
        if picture.mode in WIDE_MODES:
            return _inside(np.asarray(picture, dtype=np.float64), bits=16)
        has_alpha = picture.mode in ("RGBA", "LA", "PA")
        colour = np.asarray(picture.convert("RGB")).max(axis=2)  # (H, W, 3) -> (H, W)
        if has_alpha and not colour.any() and np.ptp(np.asarray(picture.getchannel("A"))):
            raise DataError(f"{path}: the mask is in the transparency; save it black and white.")
        return _inside(colour, bits=8)


def read_class_mask(path: Path, *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the number in every pixel of a class mask, (H, W): palette index or grey level.

    Args:
        path: PNG or TIFF file of one channel with 8 bits or fewer, in the displayed orientation of
            its picture.
        size: (width, height) of the picture it belongs to.

    Raises:
        DataError: The file is missing, unreadable, a JPEG, of another size, or has colours or more
            than 8 bits, so that a pixel holds no such number.
    """
    with _opened(path, size=size) as picture:
        if picture.mode not in ("1", "L", "P"):
            raise DataError(
                f"{path}: a class mask must hold one number of 8 bits per pixel, this file is of "
                f"mode {picture.mode}; save it as a grey or palette PNG."
            )
        return np.array(picture, dtype=np.uint8)


def box_mask(
    box: tuple[float, float, float, float], *, frame: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return a box (x, y, width, height) given in ``frame`` pixels as (H, W) booleans of ``size``.

    Edges are rounded to whole pixels, at least one pixel remains, and what lies outside the picture
    is cut off. ``frame`` and ``size`` are (width, height).

    Raises DataError for a box wholly outside the picture.
    """
    mask = np.zeros((size[1], size[0]), dtype=np.bool_)
    columns = _span(box[0], box[2], scale=size[0] / frame[0], length=size[0])
    rows = _span(box[1], box[3], scale=size[1] / frame[1], length=size[1])
    if columns is None or rows is None:
        raise DataError(
            f"box {box} lies outside its frame of {frame[0]}x{frame[1]} pixels; correct it, "
            "as x, y, width, height from the upper left corner."
        )
    mask[rows, columns] = True
    return mask


@contextmanager
def _opened(path: Path, *, size: tuple[int, int]) -> Iterator[Image.Image]:
    if not path.is_file():
        raise DataError(f"{path}: no such mask; check the path in its table.")
    with open_raster(path) as picture:
        if picture.format == "JPEG":
            raise DataError(f"{path}: JPEG blurs masks into their surroundings; save it as PNG.")
        if picture.size != size:
            raise DataError(
                f"{path}: mask of {picture.width}x{picture.height} pixels on a picture of "
                f"{size[0]}x{size[1]}; export it at the picture's size."
            )
        yield picture


def _of_class(values: NDArray[np.uint8], wanted: MaskValue, path: Path) -> NDArray[np.bool_]:
    unknown = sorted({*np.unique(values).tolist()} - {0, *wanted.known})
    if unknown:
        raise DataError(
            f"{path}: holds the value {unknown[0]}, which the label table's class_mask does not "
            f"name, only {', '.join(map(str, wanted.known))}. Name what it outlines there, or mend "
            "the mask."
        )
    inside: NDArray[np.bool_] = values == wanted.value
    return inside


def _span(start: float, extent: float, *, scale: float, length: int) -> slice | None:
    if start * scale >= length or (start + extent) * scale <= 0:
        return None
    first = min(max(round(start * scale), 0), length - 1)
    last = min(max(round((start + extent) * scale), first + 1), length)
    return slice(first, last)


def _inside(values: NDArray[np.uint8] | NDArray[np.float64], *, bits: int) -> NDArray[np.bool_]:
    threshold = 1 if len(np.unique(values)) <= MAX_INDEX_LEVELS else HALF_WHITE[bits]
    inside: NDArray[np.bool_] = values >= threshold
    return inside
