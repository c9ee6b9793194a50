"""Preprocessing keeps proportions and every lesion; contrast and stain come out as said."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label as connected_parts

from common.config.run import PreprocessConfig
from common.datasets.preprocess import (
    bright_extent,
    equalise,
    is_stained,
    normalise_stain,
    preprocess,
    shrink_mask,
    stretch_contrast,
)
from common.errors import DataError

PLAIN = PreprocessConfig(
    contrast_percentiles=None,
    clahe_clip_limit=0.0,
    clahe_tiles=8,
    crop_dark_border=False,
    stain_normalisation="none",
)


def tissue(seed: int = 0, size: int = 64) -> NDArray[np.uint8]:
    """A tile of two stains in random amounts, as light that passes through them."""
    rng = np.random.default_rng(seed)
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    amounts = rng.gamma(2.0, 0.35, (size, size, 2))
    return np.clip(240 * np.exp(-amounts @ stains), 0, 255).astype(np.uint8)


def test_a_wide_picture_keeps_its_proportions_and_is_centred() -> None:
    image = np.full((20, 40, 1), 200, dtype=np.uint8)
    mask = np.ones((20, 40), dtype=np.bool_)
    done = preprocess(image, [mask], size_px=32, config=PLAIN)
    assert done.image.shape == (32, 32, 1)
    assert done.masks[0].any(axis=1).tolist() == [False] * 8 + [True] * 16 + [False] * 8


def test_padding_has_the_colour_of_the_border() -> None:
    image = np.full((20, 40, 3), 10, dtype=np.uint8)
    image[5:15, 10:30] = 250
    done = preprocess(image, [], size_px=40, config=PLAIN)
    assert (done.image[0] == 10).all()


def test_picture_and_mask_move_together() -> None:
    mask = np.zeros((70, 100), dtype=np.bool_)
    mask[20:45, 30:80] = True
    image = np.where(mask, 255, 0).astype(np.uint8)[..., None]
    image[10:60, 10:90] = np.maximum(image[10:60, 10:90], 60)  # a picture within its dark surround
    cropping = PLAIN.model_copy(update={"crop_dark_border": True})
    for config in (PLAIN, cropping):
        done = preprocess(image, [mask], size_px=64, config=config)
        assert ((done.image[..., 0] >= 128) == done.masks[0]).mean() > 0.98


@given(st.integers(0, 2**32 - 1), st.integers(4, 40))
@settings(max_examples=40, deadline=None)
def test_every_lesion_survives_shrinking(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((211, 160), dtype=np.bool_)
    for _ in range(6):
        y, x, extent = rng.integers(0, 205), rng.integers(0, 154), rng.integers(1, 6)
        mask[y : y + extent, x : x + extent] = True
    small = shrink_mask(mask, size, size)
    parts, number = connected_parts(mask, structure=np.ones((3, 3)))
    for part in range(1, number + 1):
        y, x = np.nonzero(parts == part)
        # Pixels lie in the cell of their centre.
        cells = small[((2 * y + 1) * size) // (2 * 211), ((2 * x + 1) * size) // (2 * 160)]
        assert cells.any()


def test_a_large_mask_shrinks_by_area() -> None:
    mask = np.zeros((100, 100), dtype=np.bool_)
    mask[:, :50] = True
    assert shrink_mask(mask, 10, 10).mean() == 0.5


def test_an_empty_mask_stays_empty() -> None:
    assert not shrink_mask(np.zeros((50, 50), dtype=np.bool_), 8, 8).any()


def test_a_mask_can_grow_with_a_small_picture() -> None:
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[10:20, 30:40] = True
    assert shrink_mask(mask, 256, 256)[40:80, 120:160].all()


def test_the_black_surround_of_a_retina_is_cut(real_data: Path) -> None:
    path = real_data / "real/fundus/idrid_grading/images/IDRiD_001_a.jpg"
    image = np.asarray(Image.open(path).convert("RGB"))
    rows, columns = bright_extent(image)
    width = columns.stop - columns.start
    assert 0.7 * image.shape[1] < width < 0.9 * image.shape[1]
    assert image[rows, columns].mean() > 1.15 * image.mean()


def test_a_black_picture_is_left_whole() -> None:
    assert bright_extent(np.zeros((30, 20, 3), dtype=np.uint8)) == (slice(0, 30), slice(0, 20))


def test_a_bright_speck_is_no_picture() -> None:
    image = np.zeros((300, 300, 1), dtype=np.uint8)
    image[0, 0] = 255
    assert bright_extent(image) == (slice(0, 300), slice(0, 300))


def test_contrast_is_stretched_between_the_percentiles() -> None:
    ramp = np.linspace(50, 150, 10000).reshape(100, 100, 1).astype(np.uint8)
    stretched = stretch_contrast(ramp, (0.0, 1.0))
    expected = (ramp.astype(float) - 50) * 255 / 100
    assert np.abs(stretched - expected).max() <= 1


def test_a_blank_picture_is_not_stretched_into_noise() -> None:
    blank = np.full((8, 8, 1), 77, dtype=np.uint8)
    assert (stretch_contrast(blank, (0.01, 0.99)) == blank).all()


def test_equalisation_of_grey_is_the_librarys() -> None:
    from skimage.exposure import equalize_adapthist

    grey = np.random.default_rng(0).integers(60, 90, (64, 64, 1), dtype=np.uint8)
    expected = equalize_adapthist(grey[..., 0], kernel_size=16, clip_limit=0.02) * 255
    done = equalise(grey, clip_limit=0.02, tiles=4)
    assert np.abs(done[..., 0] - expected).max() <= 0.5
    assert done.std() > 2 * grey.std()


def test_equalisation_of_colour_keeps_grey_grey() -> None:
    grey = np.random.default_rng(0).integers(60, 90, (64, 64, 1), dtype=np.uint8)
    done = equalise(np.repeat(grey, 3, axis=2), clip_limit=0.02, tiles=4).astype(int)
    assert np.ptp(done, axis=2).max() <= 2


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_stain_normalisation_brings_two_scanners_together(method: str) -> None:
    tile = tissue()
    other = np.clip(tile * np.array([0.8, 0.75, 1.0]), 0, 255).astype(np.uint8)
    before = np.abs(tile.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max()
    one, two = (normalise_stain(t, method).mean(axis=(0, 1)) for t in (tile, other))
    assert before > 25
    assert np.abs(one - two).max() < 10


def test_macenko_is_the_librarys_after_white_balance() -> None:
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    tile = tissue()
    tile[:5] = 240  # glass: the lamp is white already
    expected, _, _ = NumpyMacenkoNormalizer().normalize(tile, stains=False)
    assert (normalise_stain(tile, "macenko") == expected).all()


@pytest.mark.parametrize(
    "tile",
    [
        np.full((32, 32, 3), 243, dtype=np.uint8),
        np.zeros((32, 32, 3), dtype=np.uint8),
        np.full((32, 32, 3), 90, dtype=np.uint8),
    ],
    ids=["glass", "black", "grey"],
)
@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_tile_without_tissue_is_left_and_counted(tile: NDArray[np.uint8], method: str) -> None:
    config = PLAIN.model_copy(update={"stain_normalisation": method})
    done = preprocess(tile, [], size_px=32, config=config)
    assert not is_stained(tile)
    assert (done.image == tile).all()
    assert done.skipped == ("stain normalisation: too little tissue",)


def test_real_tissue_is_stained(real_data: Path) -> None:
    folder = real_data / "real/histology/ebhi_seg/images"
    for path in sorted(folder.iterdir())[:20]:
        assert is_stained(np.asarray(Image.open(path).convert("RGB")))


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"\(10, 12\), got \(12, 10\)"):
        preprocess(
            np.zeros((10, 12, 1), dtype=np.uint8),
            [np.zeros((12, 10), dtype=np.bool_)],
            size_px=8,
            config=PLAIN,
        )


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (0, 10, 3)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="must be uint8 of shape"):
        preprocess(np.zeros(shape, dtype=np.uint8), [], size_px=8, config=PLAIN)
