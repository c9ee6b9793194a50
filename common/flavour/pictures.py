"""The table of pictures that a model in MLflow is asked about: a picture's file in every row.

Files and not pixels, so that a picture is read, windowed and prepared exactly as for training,
DICOM included, and so that the same table can be sent to a served model.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from common.errors import DataError

IMAGE, NAME = "image", "name"  # columns; the second may be left out

Source = Path | str | bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class PictureFile:
    """A picture's file in memory."""

    name: str
    content: bytes


def frame_of(pictures: Iterable[Source] | NDArray[np.uint8]) -> pd.DataFrame:
    """Return the table of pictures, in their order.

    Args:
        pictures: Of each the path of its file, the file's bytes (PNG, JPEG, TIFF, DICOM), or its
            pixels (H, W), (H, W, 1) or (H, W, 3), uint8; also an array (N, H, W, C) of them.

    Raises:
        DataError: A file cannot be read, or pixels are of another shape or type.
    """
    if isinstance(pictures, Path | str | bytes):
        raise DataError("give a list of pictures; for a single one a list of one.")
    files = [_file_of(picture, number) for number, picture in enumerate(pictures, 1)]
    return pd.DataFrame(
        {IMAGE: [file.content for file in files], NAME: [file.name for file in files]},
        columns=[IMAGE, NAME],
    )


def files_of(frame: pd.DataFrame) -> Iterator[PictureFile]:
    """Return the pictures of a table; those without a name are numbered.

    Raises DataError for a table without the column ``image``, or with something else than bytes
    in it.
    """
    if IMAGE not in frame.columns:
        raise DataError(
            f"the table has no column {IMAGE!r} with the bytes of each picture's file; "
            "common.flavour.pictures.frame_of makes one."
        )
    names = frame[NAME].tolist() if NAME in frame.columns else [None] * len(frame)
    for number, (content, name) in enumerate(zip(frame[IMAGE].tolist(), names, strict=True), 1):
        if not isinstance(content, bytes):
            raise DataError(
                f"row {number}: column {IMAGE!r} must hold the bytes of a file, got "
                f"{type(content).__name__}. Use common.flavour.pictures.frame_of for pixels."
            )
        yield PictureFile(name if isinstance(name, str) and name else _numbered(number), content)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (H, W), (H, W, 1) or (H, W, 3) as a PNG file, without loss."""
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    is_picture = flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_picture or not pixels.size:
        raise DataError(
            f"pixels must be (H, W), (H, W, 1) or (H, W, 3) of type uint8, got {pixels.shape} of "
            f"type {pixels.dtype}."
        )
    file = BytesIO()
    Image.fromarray(flat).save(file, format="PNG")
    return file.getvalue()


def _file_of(picture: Source, number: int) -> PictureFile:
    if isinstance(picture, np.ndarray):
        return PictureFile(_numbered(number), png(picture))
    if isinstance(picture, bytes):
        return PictureFile(_numbered(number), picture)
    path = Path(picture)
    try:
        return PictureFile(path.name, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


def _numbered(number: int) -> str:
    return f"picture-{number:04d}"
