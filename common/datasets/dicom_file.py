"""Reads the pixels of one DICOM file as a viewer would show them.

Of what a header says no message repeats more than words of the standard and whole numbers: a
damaged or hand-made header may hold a patient's name wherever it is read.
"""

import struct
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from common.datasets.picture_size import refuse_size
from common.datasets.quiet_readers import quiet_readers
from common.datasets.window import window_to_8_bit
from common.errors import DataError

GREY = ("MONOCHROME1", "MONOCHROME2")
# The other values that the standard defines, PS3.3 C.7.6.3.1.2, those that were retired included.
COLOURS = ("PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422",
           "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB")  # fmt: skip
VOI_KEYS = ("WindowCenter", "VOILUTSequence")
MODALITY_KEYS = ("RescaleSlope", "ModalityLUTSequence")

_BROKEN = (
    InvalidDicomError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    NotImplementedError, RuntimeError, EOFError, OverflowError, MemoryError, struct.error,
)  # fmt: skip


def read_dicom(path: Path) -> NDArray[np.uint8]:
    """Return (H, W) grey or (H, W, 3) colour pixels, 0..255, black to white.

    Grey values go through the rescale or modality table and the window or VOI table where the file
    has them, MONOCHROME1 is inverted, and the result is scaled by ``window_to_8_bit``. Values of at
    most eight stored bits without such tables stay as they are. Bits above the stored ones
    (overlays of older machines) are cut off; padding pixels are black and outside the window.

    Raises DataError for a file that cannot be decoded, has several frames, or holds a kind of
    colour that is not supported, naming the remedy.
    """
    try:
        with quiet_readers():
            return _pixels(path, pydicom.dcmread(path))
    except _BROKEN as error:
        raise DataError(
            f"{path}: cannot be decoded as DICOM ({type(error).__name__}{_coding(path)}); export "
            "it again, uncompressed or as JPEG 2000, or leave it out."
        ) from error


def _coding(path: Path) -> str:
    """Return how the file's pixels are compressed, by its name in the standard; "" if unknown."""
    try:
        with quiet_readers():
            syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    except _BROKEN:
        return ""  # what is broken is told already
    return f", {syntax.name}" if syntax.type == "Transfer Syntax" else ""


def _pixels(path: Path, file: FileDataset) -> NDArray[np.uint8]:
    if "PixelData" not in file:
        raise DataError(
            f"{path}: a DICOM file without pixels, or cut short; copy it again, or leave it out."
        )
    refuse_size(path, width=int(file.Columns), height=int(file.Rows))
    frames = int(file.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"{path}: holds {frames} frames; export the one wanted by itself.")
    photometric = str(file.PhotometricInterpretation)
    if photometric in GREY:
        return _grey(path, file, inverted=photometric == "MONOCHROME1")
    if int(file.SamplesPerPixel) == 3 and int(file.BitsStored) == 8:
        return np.asarray(file.pixel_array, dtype=np.uint8)  # (H, W, 3), YBR already as RGB
    kind = f"{photometric} pixels" if photometric in COLOURS else "pixels of this kind"
    raise DataError(f"{path}: {kind} are not supported; export as MONOCHROME2 or RGB.")


def _grey(path: Path, file: FileDataset, *, inverted: bool) -> NDArray[np.uint8]:
    stored = _stored_values(path, file)
    has_tables = any(file.get(key) is not None for key in (*VOI_KEYS, *MODALITY_KEYS))
    if int(file.BitsStored) <= 8 and not int(file.PixelRepresentation) and not has_tables:
        full = (1 << int(file.BitsStored)) - 1
        return (full - stored if inverted else stored).astype(np.uint8)
    values = np.asarray(apply_voi_lut(apply_modality_lut(stored, file), file), dtype=np.float32)
    if inverted:
        values = -values
    padding = file.get("PixelPaddingValue")
    if padding is None:
        return window_to_8_bit(values, path=path)
    counted = stored != int(padding)
    return np.where(counted, window_to_8_bit(values, path=path, counted=counted), np.uint8(0))


def _stored_values(path: Path, file: FileDataset) -> NDArray[np.int64]:
    bits = int(file.BitsStored)
    if (high := int(file.HighBit)) != bits - 1:
        raise DataError(
            f"{path}: high bit {high} with {bits} stored bits is not standard DICOM; "
            "export the picture again."
        )
    values = np.asarray(file.pixel_array).astype(np.int64) & ((1 << bits) - 1)
    if int(file.PixelRepresentation) == 0:
        return values
    sign = 1 << (bits - 1)
    return (values ^ sign) - sign  # two's complement of ``bits`` bits
