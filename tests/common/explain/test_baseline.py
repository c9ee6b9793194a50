"""The pictures that attributions start from, against scipy and numpy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from small_network import drawn_pictures

from common.errors import ExplanationError
from common.explain.baseline import blurred, dataset_mean, mean_colour


@pytest.mark.parametrize("side_px", [32, 64])
def test_blur_is_a_gaussian_of_an_eighth_of_the_side(side_px: int) -> None:
    images = drawn_pictures(2, side_px=side_px)

    found = blurred(images).numpy()

    expected = gaussian_filter(
        images.numpy(), side_px / 8, axes=(2, 3), truncate=2.0, mode="mirror"
    )
    assert np.allclose(found, expected, atol=1e-5)


def test_mean_colour_is_each_pictures_own() -> None:
    images = drawn_pictures(2, side_px=16)

    found = mean_colour(images)

    assert found.shape == images.shape
    assert found[1, 2].unique().tolist() == pytest.approx([float(np.mean(images[1, 2].numpy()))])


def test_mean_of_a_set_is_taken_pixel_by_pixel() -> None:
    pictures = drawn_pictures(5, side_px=16)

    assert np.allclose(dataset_mean(pictures), pictures.numpy().mean(axis=0), atol=1e-6)


def test_mean_of_no_pictures_is_refused() -> None:
    with pytest.raises(ExplanationError, match="mean of no pictures"):
        dataset_mean(torch.zeros(0, 3, 8, 8))
