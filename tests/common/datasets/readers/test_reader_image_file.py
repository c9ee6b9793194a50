"""Pictures of every permitted format become 8-bit pixels; broken ones say what to do."""

import logging
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.image_file import open_raster, read_image
from common.datasets.quiet_readers import quiet_readers
from common.errors import DataError


def grey_ramp() -> np.ndarray:
    return np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_eight_bit_png_keeps_its_values(tmp_path: Path) -> None:
    Image.fromarray(grey_ramp()).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", channels=1)
    assert pixels.shape == (6, 8, 1)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[:, :, 0], grey_ramp())


def test_grey_is_repeated_where_three_channels_are_asked_for(tmp_path: Path) -> None:
    Image.fromarray(grey_ramp()).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", channels=3)
    np.testing.assert_array_equal(pixels, np.dstack([grey_ramp()] * 3))


def test_colour_becomes_luminance_where_one_channel_is_asked_for(tmp_path: Path) -> None:
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 0] = (255, 0, 0)
    colour[0, 1] = (0, 255, 0)
    colour[1, 0] = (0, 0, 255)
    Image.fromarray(colour).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", channels=1)
    expected = np.rint(255 * np.array([[0.299, 0.587], [0.114, 0.0]]))
    np.testing.assert_array_equal(pixels[:, :, 0], expected)


def test_grey_stored_as_colour_keeps_its_values(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([grey_ramp()] * 3)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channels=1)[:, :, 0], grey_ramp())


def test_transparency_is_dropped(tmp_path: Path) -> None:
    colour = np.full((3, 3, 4), 200, np.uint8)
    colour[:, :, 3] = 0
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", channels=3) == 200).all()


def test_palette_is_resolved_to_its_colours(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", channels=3)
    np.testing.assert_array_equal(pixels[0], [[10, 20, 30], [40, 50, 60]])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_scaled_by_its_percentiles(tmp_path: Path, name: str) -> None:
    values = np.linspace(1000, 5000, 10_000).astype(np.uint16).reshape(100, 100)
    values[0, 0] = 65_535  # a burnt-in marker
    Image.fromarray(values).save(tmp_path / name)
    pixels = read_image(tmp_path / name, channels=1)[:, :, 0]
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip(np.rint((values.astype(np.float64) - low) * 255 / (high - low)), 0, 255)
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert pixels[50, 50] > 120


def test_sixteen_bit_picture_of_one_value_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 30_000, np.uint16)).save(tmp_path / "a.png")
    assert not read_image(tmp_path / "a.png", channels=1).any()


def test_window_takes_the_extremes_where_almost_all_pixels_are_equal(tmp_path: Path) -> None:
    values = np.full((100, 100), 1000, np.uint16)
    values[3, 4] = 2000
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", channels=1)[:, :, 0]
    assert pixels[3, 4] == 255
    assert pixels.sum() == 255


def test_float_tiff_with_holes_is_refused(tmp_path: Path) -> None:
    values = np.full((4, 4), np.nan, np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="not finite"):
        read_image(tmp_path / "a.tif", channels=1)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(np.repeat(grey_ramp(), 8, axis=0))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = read_image(tmp_path / "a.jpg", channels=1)
    assert pixels.shape == (8, 48, 1)


def test_cmyk_jpeg_is_read_as_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = read_image(tmp_path / "a.jpg", channels=3)[4, 4]
    assert red > 200
    assert max(green, blue) < 60


def test_missing_picture_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such picture; check the path"):
        read_image(tmp_path / "gone.png", channels=1)


def test_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: the file is empty"):
        read_image(tmp_path / "a.png", channels=1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_file_is_named_with_the_remedy(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\.{suffix}: cannot be read .*copy the file again"):
        read_image(path, channels=3)


def test_text_named_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        read_image(tmp_path / "a.png", channels=1)


def test_format_outside_the_list_is_refused(tmp_path: Path) -> None:
    Image.fromarray(grey_ramp()).save(tmp_path / "a.bmp")
    with pytest.raises(DataError, match="PNG, JPEG, TIFF or DICOM"):
        read_image(tmp_path / "a.bmp", channels=1)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frame = Image.fromarray(grey_ramp())
    frame.save(tmp_path / "a.tif", save_all=True, append_images=[frame])
    with pytest.raises(DataError, match="holds 2 frames; save the one wanted"):
        read_image(tmp_path / "a.tif", channels=1)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b""))


def test_no_message_repeats_what_a_file_holds(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    for error, told in (
        (ValueError("tag Artist is 'Smith'"), r"\(ValueError\)"),
        (OSError("image file is truncated"), r"\(image file is truncated\)"),
    ):
        with (
            pytest.raises(DataError, match=rf"a\.png: cannot be read .*{told}; copy"),
            open_raster(tmp_path / "a.png"),
        ):
            raise error


@pytest.mark.parametrize("side", [11_000, 40_000])
def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    with pytest.raises(DataError, match=r"a\.png: .*(more than the|decompression bomb)"):
        read_image(tmp_path / "a.png", channels=1)


def test_two_channels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(grey_ramp()).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 or 3 channels, not 2"):
        read_image(tmp_path / "a.png", channels=2)


def test_libraries_warn_and_log_nothing_while_a_picture_is_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with quiet_readers():
        warnings.warn("a tag holds a name", UserWarning, stacklevel=1)
        logging.getLogger("pydicom").warning("a tag holds a name")
    assert not caplog.records
    assert not logging.getLogger("pydicom").disabled


def test_silence_lasts_until_the_last_of_several_threads_has_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outer_entered, outer_may_leave = threading.Event(), threading.Event()

    def first_in_last_out() -> None:
        with quiet_readers():
            outer_entered.set()
            outer_may_leave.wait(10)
            warnings.warn("a tag holds a name", UserWarning, stacklevel=1)
            logging.getLogger("PIL").warning("a tag holds a name")

    thread = threading.Thread(target=first_in_last_out)
    thread.start()
    outer_entered.wait(10)
    with quiet_readers():
        pass
    outer_may_leave.set()
    thread.join()
    assert not caplog.records
    assert not logging.getLogger("PIL").disabled
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)
