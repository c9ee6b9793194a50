"""From a picture's file to what the model sees, with the expert's region on the same square."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config.run import PreprocessConfig
from common.datasets.image_file import read_image
from common.datasets.preprocess import bright_extent, fitted_size, preprocess
from common.datasets.roi_file import read_mask
from common.errors import DataError
from common.explanation.anatomy import Extent, Eye
from common.explanation.optic_disc import disc_of_mask, find_disc
from common.tasks import Task


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture as the model sees it; S its side in px, C = 1 or 3."""

    name: str
    sha256: str  # of the file's bytes
    width_px: int
    height_px: int
    image: NDArray[np.uint8]  # (S, S, C)
    skipped: tuple[str, ...]  # steps of preparation that could not be done
    extent: Extent  # the part of the square that the picture fills
    region: NDArray[np.bool_] | None  # (S, S) an expert's region
    eye: Eye | None  # fundus pictures: the optic disc, outlined or estimated


def prepare_picture(
    path: Path,
    *,
    task: Task,
    size_px: int,
    config: PreprocessConfig,
    region: Path | None = None,
    disc: Path | None = None,
) -> PreparedPicture:
    """Read a picture and prepare it exactly as pictures were for training.

    Args:
        path: PNG, JPEG, TIFF or DICOM file with one frame.
        task: Whose model will see it.
        size_px: Side of the square that the model sees.
        config: Of the model's package.
        region: Mask of an expert's region, of the picture's size.
        disc: Mask of the optic disc, of the picture's size; else it is estimated.

    Raises:
        DataError: A file is missing, unreadable or does not fit.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    image = read_image(path, channels=task.channels)
    height, width = image.shape[:2]
    masks = [read_mask(mask, size=(width, height)) for mask in (region, disc) if mask is not None]
    done = preprocess(image, masks, size_px=size_px, config=config)
    outlined = list(done.masks)
    expert = outlined.pop(0) if region is not None else None
    eye = disc_of_mask(outlined.pop(0)) if disc is not None else None
    if eye is None and task.name == "retina":
        eye = find_disc(done.image)
    return PreparedPicture(
        name=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        width_px=width,
        height_px=height,
        image=done.image,
        skipped=done.skipped,
        extent=_extent(image, size_px=size_px, config=config),
        region=expert,
        eye=eye,
    )


def _extent(image: NDArray[np.uint8], *, size_px: int, config: PreprocessConfig) -> Extent:
    """Return where the preparation put the picture in the square; the rest is padding."""
    if config.crop_dark_border:
        rows, columns = bright_extent(image)
        image = image[rows, columns]
    height, width = fitted_size(image.shape[0], image.shape[1], size_px)
    return Extent(
        top=(size_px - height) // 2 / size_px,
        left=(size_px - width) // 2 / size_px,
        height=height / size_px,
        width=width / size_px,
    )
