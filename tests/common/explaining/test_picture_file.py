"""A picture's file becomes what the model sees, with its region and its place on the square."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.run import PreprocessConfig
from common.datasets.image_file import read_image
from common.datasets.preprocess import preprocess
from common.errors import DataError
from common.explaining.picture_file import prepare_picture
from common.explanation.anatomy import Extent
from common.tasks import TASKS

CONFIG = PreprocessConfig(
    contrast_percentiles=(0.02, 0.98),
    clahe_clip_limit=0.01,
    clahe_tiles=4,
    crop_dark_border=False,
    stain_normalisation="none",
)
CHEST = TASKS["chestx"]


@pytest.fixture
def broad(tmp_path: Path) -> Path:
    """A picture twice as wide as high."""
    pixels = np.random.default_rng(1).integers(0, 256, (50, 100), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "broad.png")
    return tmp_path / "broad.png"


def test_a_picture_is_prepared_exactly_as_for_training(broad: Path) -> None:
    done = prepare_picture(broad, task=CHEST, size_px=64, config=CONFIG)

    expected = preprocess(read_image(broad, channels=1), [], size_px=64, config=CONFIG)
    assert np.array_equal(done.image, expected.image)
    assert (done.name, done.width_px, done.height_px) == ("broad.png", 100, 50)
    assert done.sha256 == hashlib.sha256(broad.read_bytes()).hexdigest()
    assert done.region is None
    assert done.eye is None


def test_the_padding_is_known(broad: Path) -> None:
    done = prepare_picture(broad, task=CHEST, size_px=64, config=CONFIG)

    assert done.extent == Extent(top=0.25, left=0.0, height=0.5, width=1.0)


def test_a_cropped_surround_does_not_count_as_picture(tmp_path: Path) -> None:
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    pixels[10:60, :] = 120  # after the crop twice as wide as high
    Image.fromarray(pixels).save(tmp_path / "eye.png")
    cropping = CONFIG.model_copy(update={"crop_dark_border": True})

    done = prepare_picture(tmp_path / "eye.png", task=TASKS["retina"], size_px=64, config=cropping)

    assert done.extent == Extent(top=0.25, left=0.0, height=0.5, width=1.0)


def test_region_and_disc_move_with_the_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(tmp_path / "e.png")
    for name, place in (("roi", slice(0, 40)), ("disc", slice(40, 80))):
        mask = np.zeros((80, 80), dtype=np.uint8)
        mask[:, place] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")

    done = prepare_picture(
        tmp_path / "e.png",
        task=TASKS["retina"],
        size_px=32,
        config=CONFIG,
        region=tmp_path / "roi.png",
        disc=tmp_path / "disc.png",
    )

    assert done.region is not None
    assert done.region[:, :16].all()
    assert not done.region[:, 16:].any()
    assert done.eye is not None
    assert done.eye.disc_column == pytest.approx(0.75)
    assert done.eye.source == "outlined by an expert"


def test_a_mask_of_another_size_or_a_missing_picture_is_refused(
    broad: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(tmp_path / "small.png")

    with pytest.raises(DataError, match=r"small\.png: mask of 9x9"):
        prepare_picture(broad, task=CHEST, size_px=64, config=CONFIG, region=tmp_path / "small.png")
    with pytest.raises(DataError, match=r"none\.png: cannot be read"):
        prepare_picture(tmp_path / "none.png", task=CHEST, size_px=64, config=CONFIG)
