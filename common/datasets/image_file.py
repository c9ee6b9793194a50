"""Reads one picture from PNG, JPEG, TIFF or DICOM into 8-bit pixels."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from common.datasets.picture_size import refuse_size
from common.datasets.quiet_readers import quiet_readers
from common.datasets.window import window_to_8_bit
from common.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF")
WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits per grey value

# What Pillow raises on broken files, beside its own errors, which derive from OSError.
_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def read_image(path: Path, *, channels: int) -> NDArray[np.uint8]:
    """Return the pixels of a picture as (H, W, channels), 0..255, in displayed orientation.

    Eight-bit pixels stay as they are. Wider grey values (16-bit PNG and TIFF, DICOM) are scaled to
    eight bits by ``window_to_8_bit``. Palettes are resolved, transparency is dropped, EXIF
    orientation is applied; colour becomes luminance (ITU-R BT.601) for one channel, grey is
    repeated for three.

    Args:
        path: PNG, JPEG, TIFF or DICOM file with one frame.
        channels: 1 or 3.

    Raises:
        DataError: The file is missing, empty, unreadable, of another format, has several frames or
            more than ``MAX_PIXELS`` pixels.
    """
    if channels not in (1, 3):
        raise DataError(f"pictures are read with 1 or 3 channels, not {channels}.")
    pixels = _dicom_pixels(path) if _is_dicom(path) else _raster_pixels(path)
    if pixels.ndim == 2 and channels == 3:
        return np.repeat(pixels[:, :, None], 3, axis=2)  # (H, W) -> (H, W, 3)
    if pixels.ndim == 3 and channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))  # (H, W, 3) -> (H, W)
    return pixels[:, :, None] if channels == 1 else pixels


@contextmanager
def open_raster(path: Path) -> Iterator[Image.Image]:
    """Open a PNG, JPEG or TIFF with one frame of permitted size, in displayed orientation.

    Everything that goes wrong inside the ``with`` block because the file is broken is raised as
    DataError naming the file and the remedy.
    """
    try:
        with quiet_readers(), Image.open(path, formats=FORMATS) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames > 1:
                raise DataError(f"{path}: holds {frames} frames; save the one wanted by itself.")
            refuse_size(path, width=opened.width, height=opened.height)
            kind = opened.format
            upright = ImageOps.exif_transpose(opened)
            upright.format = kind  # a transposed copy forgets where it came from
            yield upright
    except _BROKEN as error:
        raise DataError(
            f"{path}: cannot be read as {', '.join(FORMATS)} or DICOM ({_said(error)}); "
            "copy the file again, convert it, or leave it out."
        ) from error


def _raster_pixels(path: Path) -> NDArray[np.uint8]:
    with open_raster(path) as picture:
        if picture.mode in WIDE_MODES:
            return window_to_8_bit(np.asarray(picture, dtype=np.float32), path=path)
        mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
        return np.array(picture.convert(mode), dtype=np.uint8)


def _dicom_pixels(path: Path) -> NDArray[np.uint8]:
    # pydicom takes a third of a second to import; most folders hold no DICOM file.
    from common.datasets.dicom_file import read_dicom  # noqa: PLC0415

    return read_dicom(path)


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        raise DataError(
            f"{path}: no such picture; check the path in its table and the data folder (--data)."
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}); mend its permissions or its disk."
        ) from error
    if not head:
        raise DataError(f"{path}: the file is empty; copy it again or take out its row.")
    # Files without the preamble exist; their suffix is then the only sign.
    return head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def _said(error: BaseException) -> str:
    """Return what a message may repeat: Pillow's fixed words; its other errors quote the file."""
    is_fixed = isinstance(error, OSError | Image.DecompressionBombError)
    return (str(error) if is_fixed else "") or type(error).__name__
