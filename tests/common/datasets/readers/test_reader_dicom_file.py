"""DICOM pixels as a viewer shows them, on real radiographs and on files made for one trap each."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from common.datasets.image_file import read_image
from common.errors import DataError


def save_dicom(path: Path, stored: np.ndarray, **tags: object) -> Path:
    """Write grey pixels (H, W) of any integer type with the tags given."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = stored.shape[:2]
    file.SamplesPerPixel = 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.BitsAllocated = stored.dtype.itemsize * 8
    file.BitsStored = file.BitsAllocated
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    file.PixelData = stored.tobytes()
    for key, value in tags.items():
        setattr(file, key, value)
    file.HighBit = tags.get("HighBit", file.BitsStored - 1)
    file.save_as(path, enforce_file_format=True)
    return path


def ramp(low: int, high: int, dtype: type = np.uint16) -> np.ndarray:
    return np.linspace(low, high, 4096).reshape(64, 64).astype(dtype)


def windowed(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (0.5, 99.5))
    return np.clip(np.rint((values - low) * 255 / (high - low)), 0, 255)


def test_real_monochrome1_is_the_inverse_of_its_twin(real_data: Path) -> None:
    folder = real_data / "native" / "dicom"
    (plain,) = folder.glob("1.2.276*.dcm")
    shown = read_image(plain, channels=1).astype(int)
    inverted = read_image(folder / "Fake_MONOHR1.dcm", channels=1).astype(int)
    np.testing.assert_array_equal(inverted, 255 - shown)


@pytest.mark.parametrize("name", ["RG1_J2KI.dcm", "RG3_J2KI.dcm", "RG3_J2KR.dcm"])
def test_real_jpeg_2000_with_fewer_stored_bits_fills_the_range(real_data: Path, name: str) -> None:
    path = real_data / "native" / "dicom" / name
    file = pydicom.dcmread(path)
    pixels = read_image(path, channels=1)[:, :, 0]
    assert pixels.shape == (file.Rows, file.Columns)
    assert (file.BitsAllocated, file.BitsStored) in {(16, 15), (16, 10)}
    assert np.percentile(pixels, 1) < 20
    assert np.percentile(pixels, 99.9) > 245
    # MONOCHROME1: bright on screen where the stored value is low.
    assert np.corrcoef(pixels.ravel(), file.pixel_array.ravel())[0, 1] < -0.98


def test_real_lossless_and_lossy_copies_look_alike(real_data: Path) -> None:
    folder = real_data / "native" / "dicom"
    lossy = read_image(folder / "RG3_J2KI.dcm", channels=1).astype(int)
    lossless = read_image(folder / "RG3_J2KR.dcm", channels=1).astype(int)
    assert np.abs(lossy - lossless).mean() < 2


def test_sixteen_bit_values_are_scaled_by_percentiles(tmp_path: Path) -> None:
    stored = ramp(200, 3000)
    pixels = read_image(save_dicom(tmp_path / "a.dcm", stored, BitsStored=12), channels=1)
    assert np.abs(pixels[:, :, 0] - windowed(stored)).max() <= 1


def test_bits_above_the_stored_ones_are_cut_off(tmp_path: Path) -> None:
    stored = ramp(200, 3000)
    clean = read_image(save_dicom(tmp_path / "a.dcm", stored, BitsStored=12), channels=1)
    overlay = stored | np.uint16(0x8000)
    dirty = read_image(save_dicom(tmp_path / "b.dcm", overlay, BitsStored=12), channels=1)
    np.testing.assert_array_equal(dirty, clean)


def test_signed_values_keep_their_order(tmp_path: Path) -> None:
    stored = ramp(-1000, 1000, np.int16)
    path = save_dicom(tmp_path / "a.dcm", stored & np.int16(0x0FFF), BitsStored=12)
    assert np.abs(read_image(path, channels=1)[:, :, 0] - windowed(stored)).max() <= 1


def test_voi_window_clips_what_lies_outside(tmp_path: Path) -> None:
    stored = ramp(0, 4095)
    path = save_dicom(
        tmp_path / "a.dcm", stored, BitsStored=12, WindowCenter="1000", WindowWidth="400"
    )
    pixels = read_image(path, channels=1)[:, :, 0]
    assert not pixels[stored < 795].any()
    assert (pixels[stored > 1205] == 255).all()
    assert abs(int(np.median(pixels[np.abs(stored.astype(int) - 1000) < 3])) - 128) < 6


def test_rescale_is_applied_before_the_window(tmp_path: Path) -> None:
    stored = ramp(0, 4095)
    tags = {"BitsStored": 12, "RescaleSlope": "2", "RescaleIntercept": "-1000"}
    path = save_dicom(tmp_path / "a.dcm", stored, WindowCenter="1000", WindowWidth="400", **tags)
    pixels = read_image(path, channels=1)[:, :, 0]
    assert not pixels[stored < 895].any()
    assert (pixels[stored > 1105] == 255).all()


def test_padding_is_black_and_outside_the_window(tmp_path: Path) -> None:
    stored = ramp(1000, 2000)
    stored[:, :8] = 4095
    path = save_dicom(tmp_path / "a.dcm", stored, BitsStored=12, PixelPaddingValue=4095)
    pixels = read_image(path, channels=1)[:, :, 0]
    assert not pixels[:, :8].any()
    assert np.abs(pixels[:, 8:] - windowed(stored[:, 8:])).max() <= 1


def test_file_without_preamble_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"not a picture at all")
    with pytest.raises(DataError, match=r"a\.dcm: cannot be decoded as DICOM"):
        read_image(tmp_path / "a.dcm", channels=1)


def test_real_file_cut_short_is_refused_by_name(real_data: Path, tmp_path: Path) -> None:
    whole = (real_data / "native" / "dicom" / "RG3_J2KR.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.dcm: a DICOM file .*cut short; copy it again"):
        read_image(tmp_path / "a.dcm", channels=1)


def test_dicom_is_known_by_its_content(real_data: Path, tmp_path: Path) -> None:
    whole = (real_data / "native" / "dicom" / "Fake_MONOHR1.dcm").read_bytes()
    (tmp_path / "IM0001").write_bytes(whole)
    assert read_image(tmp_path / "IM0001", channels=3).shape == (1024, 1024, 3)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    stored = np.zeros((2, 8, 8), np.uint8)
    path = save_dicom(tmp_path / "a.dcm", stored, Rows=8, Columns=8, NumberOfFrames=2)
    with pytest.raises(DataError, match="holds 2 frames"):
        read_image(path, channels=1)


def test_unusual_high_bit_is_refused(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", ramp(0, 4000), BitsStored=12, HighBit=15)
    with pytest.raises(DataError, match="high bit 15 with 12 stored bits"):
        read_image(path, channels=1)


def test_palette_colour_is_refused(tmp_path: Path) -> None:
    path = save_dicom(
        tmp_path / "a.dcm", ramp(0, 255, np.uint8), PhotometricInterpretation="PALETTE COLOR"
    )
    with pytest.raises(DataError, match="PALETTE COLOR pixels are not supported"):
        read_image(path, channels=3)


@pytest.mark.parametrize(
    "tags",
    [
        {"PhotometricInterpretation": "SMITH^JOHN"},
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 1},
        {"WindowCenter": "12", "WindowWidth": "SMITH^JOHN"},
        {"RescaleSlope": "SMITH^JOHN", "RescaleIntercept": "0"},
        {"NumberOfFrames": "SMITH^JOHN"},
    ],
)
def test_no_message_repeats_what_a_header_says(tmp_path: Path, tags: dict[str, object]) -> None:
    """A header that is damaged or made by hand may hold a patient's name anywhere."""
    path = save_dicom(tmp_path / "a.dcm", ramp(0, 255, np.uint8), WindowCenter="12")
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pydicom.dcmread(path)
        for key, value in tags.items():
            element = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(key), pydicom.datadict.dictionary_VR(key), 0,
                value.encode() if isinstance(value, str) else value.to_bytes(2, "little"),
                0, False, True,
            )  # fmt: skip
            file[element.tag] = element
        file.save_as(path)
    with pytest.raises(DataError, match=r"a\.dcm: .*") as caught:
        read_image(path, channels=1)
    assert "SMITH" not in str(caught.value)


def test_how_a_file_is_compressed_is_told_by_its_name_in_the_standard(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", ramp(0, 255, np.uint8), PixelData=b"short")
    with pytest.raises(DataError, match=r"as DICOM \(\w+, Explicit VR Little Endian\); export"):
        read_image(path, channels=1)


def test_colour_stays_as_it_is(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = save_dicom(
        tmp_path / "a.dcm",
        colour,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
    )
    np.testing.assert_array_equal(read_image(path, channels=3), colour)


def test_file_without_pixels_is_refused(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", ramp(0, 255, np.uint8))
    file = pydicom.dcmread(path)
    del file.PixelData
    file.save_as(path)
    with pytest.raises(DataError, match="without pixels"):
        read_image(path, channels=1)


def test_malformed_tags_raise_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save_dicom(tmp_path / "a.dcm", ramp(0, 255, np.uint8), PatientAge="sixty years")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(path, channels=1)
    assert not caught
