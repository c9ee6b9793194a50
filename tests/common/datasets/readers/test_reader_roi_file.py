"""Masks and boxes become pixels; transparency and blur never widen them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.record import Region
from common.datasets.roi_file import box_mask, read_mask, region_pixels
from common.errors import DataError

SIZE = (8, 6)  # width, height


def disc() -> np.ndarray:
    marked = np.zeros((6, 8), bool)
    marked[1:4, 2:7] = True
    return marked


def test_rgba_mask_is_read_by_its_colours_alone(tmp_path: Path) -> None:
    # IDRiD_81_EX.tif is the one such file of its set: opaque everywhere, red inside.
    rgba = np.zeros((6, 8, 4), np.uint8)
    rgba[:, :, 3] = 255
    rgba[disc(), 0] = 255
    Image.fromarray(rgba).save(tmp_path / "IDRiD_81_EX.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "IDRiD_81_EX.tif", size=SIZE), disc())


def test_real_rgba_masks_mark_a_part_of_the_picture(real_data: Path) -> None:
    masks = sorted((real_data / "native" / "covid_lesion_seg" / "masks").glob("*.png"))
    assert masks
    for path in masks:
        with Image.open(path) as picture:
            red_green_blue = np.asarray(picture)[:, :, :3]
            size = picture.size
        marked = read_mask(path, size=size)
        np.testing.assert_array_equal(marked, red_green_blue.any(axis=2))
        assert 0 < marked.mean() < 1


def test_mask_in_the_transparency_is_refused(tmp_path: Path) -> None:
    rgba = np.zeros((6, 8, 4), np.uint8)
    rgba[disc(), 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="in the transparency; save it black and white"):
        read_mask(tmp_path / "a.png", size=SIZE)


def test_real_palette_tiff_marks_index_one(real_data: Path) -> None:
    masks = real_data / "native" / "idrid" / "A. Segmentation" / "2. All Segmentation Groundtruths"
    marked = read_mask(
        masks / "a. Training Set" / "3. Hard Exudates" / "IDRiD_01_EX.tif", size=(4288, 2848)
    )
    assert marked.dtype == np.bool_
    assert int(marked.sum()) == 113_286


def test_palette_mask_is_read_by_index_not_by_colour(tmp_path: Path) -> None:
    picture = Image.fromarray(disc().astype(np.uint8)).convert("P")
    picture.putdata(disc().astype(np.uint8).ravel().tolist())
    picture.putpalette([255, 255, 255, 0, 0, 0])  # black on white
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", size=SIZE), disc())


def test_one_bit_mask_is_read(tmp_path: Path) -> None:
    Image.fromarray(disc()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", size=SIZE), disc())


def test_index_mask_marks_every_class(tmp_path: Path) -> None:
    index = np.zeros((6, 8), np.uint8)
    index[1, 1:5] = [1, 2, 3, 4]
    Image.fromarray(index).save(tmp_path / "a.png")
    assert int(read_mask(tmp_path / "a.png", size=SIZE).sum()) == 4


def test_real_index_masks_agree_with_the_one_bit_masks(real_data: Path) -> None:
    folder = real_data / "real" / "cxr" / "covid_lesion_seg"
    one_bit = sorted((folder / "masks").glob("*.png"))
    assert one_bit
    for path in one_bit:
        with Image.open(path) as picture:
            size = picture.size
        index = read_mask(folder / "class_masks" / path.name, size=size)
        union = read_mask(path, size=size)
        assert (index & union).sum() / (index | union).sum() > 0.98


def test_real_blurred_grey_mask_is_cut_at_half_white(real_data: Path) -> None:
    # Resized masks of this set have all 256 levels; "not black" would add four per cent of area.
    path = real_data / "native/ebhi/EBHI-SEG/Polyp/label/GT1815553-1-400-001.png"
    twin = real_data / "real/histology/ebhi_seg/masks/Polyp__GT1815553-1-400-001.png"
    marked = read_mask(path, size=(224, 224))
    np.testing.assert_array_equal(marked, read_mask(twin, size=(224, 224)))
    assert (np.asarray(Image.open(path)) > 0).mean() - marked.mean() > 0.03


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(disc()).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: mask of 8x6 pixels on a picture of 16x12"):
        read_mask(tmp_path / "a.png", size=(16, 12))


def test_jpeg_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(disc().astype(np.uint8) * 255).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="save it as PNG"):
        read_mask(tmp_path / "a.jpg", size=SIZE)


def test_missing_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such mask"):
        read_mask(tmp_path / "gone.png", size=SIZE)


def test_broken_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        read_mask(tmp_path / "a.png", size=SIZE)


def test_box_covers_its_pixels() -> None:
    marked = box_mask((2, 1, 5, 3), frame=SIZE, size=SIZE)
    np.testing.assert_array_equal(marked, disc())


def test_box_is_scaled_from_its_frame_to_the_picture() -> None:
    marked = box_mask((256, 512, 256, 128), frame=(1024, 1024), size=(8, 16))
    expected = np.zeros((16, 8), bool)
    expected[8:10, 2:4] = True
    np.testing.assert_array_equal(marked, expected)


def test_tiny_box_keeps_one_pixel() -> None:
    assert box_mask((1023.9, 0.1, 0.05, 0.05), frame=(1024, 1024), size=(32, 32)).sum() == 1


def test_box_is_cut_off_at_the_edge() -> None:
    assert box_mask((-3, -3, 5, 5), frame=SIZE, size=SIZE).sum() == 4


def test_box_outside_the_picture_is_refused() -> None:
    with pytest.raises(DataError, match="lies outside its frame of 8x6 pixels"):
        box_mask((20, 1, 5, 3), frame=SIZE, size=SIZE)


def test_box_without_a_frame_is_in_the_pictures_own_pixels() -> None:
    region = Region("lesion_box", "Mass", 0, mask=None, box=(2, 1, 5, 3), box_frame=None)
    np.testing.assert_array_equal(region_pixels(region, size=SIZE), disc())


def test_region_without_mask_and_box_is_refused() -> None:
    region = Region("lesion_box", "Mass", 0, mask=None, box=None, box_frame=None)
    with pytest.raises(DataError, match="neither a mask nor a box"):
        region_pixels(region, size=SIZE)
