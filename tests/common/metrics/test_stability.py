"""Maps that stay while pictures change: against torchmetrics, and with known methods."""

import importlib
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import DataError
from common.metrics.stability import (
    BRIGHTNESS,
    NOISE_DEVIATION,
    between_pictures,
    reproducibility,
    shifted,
    similarity,
    stability,
)

SIDE_PX = 32


@pytest.fixture
def images() -> Tensor:
    noise = torch.randn((3, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 9, stride=1, padding=4) * 9


def brightness_map(pictures: Tensor) -> Tensor:
    """A method that follows the picture wherever it goes, whatever its overall brightness."""
    values = pictures.mean(dim=1)
    values = (values - values.amin(dim=(1, 2), keepdim=True)).clamp(min=0)
    return values / values.sum(dim=(1, 2), keepdim=True)


def corner_map(pictures: Tensor) -> Tensor:
    """A method that looks at the upper left corner whatever the picture."""
    maps = torch.zeros(len(pictures), SIDE_PX, SIDE_PX)
    maps[:, :8, :8] = 1 / 64
    return maps


@pytest.fixture(scope="module")
def torchmetrics_image() -> ModuleType:
    # Importing torchmetrics imports torchvision, which needs this first.
    importlib.import_module("common.machine.torchvision_ops")
    return importlib.import_module("torchmetrics.functional.image")


def test_similarity_is_torchmetrics_ssim_of_maps_scaled_to_one(
    images: Tensor, torchmetrics_image: ModuleType
) -> None:
    first, second = brightness_map(images), brightness_map(images.roll(1, dims=0))

    measured = similarity(first, second)

    highest = torch.maximum(first, second).amax(dim=(1, 2), keepdim=True)
    expected = torchmetrics_image.structural_similarity_index_measure(
        (first / highest)[:, None].double(),
        (second / highest)[:, None].double(),
        data_range=1.0,
        sigma=1.5,
        reduction="none",
    )
    np.testing.assert_allclose(measured, expected.numpy(), rtol=1e-5)
    assert measured.max() < 0.9


def test_equal_maps_are_alike_and_empty_ones_too() -> None:
    maps = corner_map(torch.zeros(2, 3, SIDE_PX, SIDE_PX))
    nothing = torch.zeros_like(maps)

    assert similarity(maps, maps) == pytest.approx([1, 1])
    assert similarity(nothing, nothing) == pytest.approx([1, 1])
    assert similarity(maps, nothing).max() < 1
    assert similarity(maps, maps / 100).max() < 1  # a fainter map is another map


def test_method_that_follows_the_picture_is_stable(images: Tensor) -> None:
    measured = stability(brightness_map, images, may_flip=True, seed=0)

    assert measured.brightness == pytest.approx([1, 1, 1], abs=1e-4)
    assert measured.shift.min() > 0.99
    assert measured.noise.min() > 0.9
    assert measured.flip is not None
    assert measured.flip == pytest.approx([1, 1, 1], abs=1e-6)


def test_method_that_stays_in_a_corner_is_caught_by_flip_and_by_other_pictures(
    images: Tensor,
) -> None:
    measured = stability(corner_map, images, may_flip=True, seed=0)

    assert measured.noise == pytest.approx([1, 1, 1])  # as stable as can be,
    assert between_pictures(corner_map(images)) == pytest.approx([1, 1, 1])  # as is chance
    assert between_pictures(brightness_map(images)).max() < 0.9
    assert measured.flip is not None
    assert measured.flip.max() < 0.9


def test_anatomy_with_sides_is_not_mirrored(images: Tensor) -> None:
    assert stability(brightness_map, images, may_flip=False, seed=0).flip is None


def test_pictures_alone_give_what_they_give_together(images: Tensor) -> None:
    together = stability(brightness_map, images, may_flip=False, seed=0)
    alone = stability(
        brightness_map, images[1:2], may_flip=False, seed=0, saliency=brightness_map(images[1:2])
    )

    assert alone.noise == pytest.approx(together.noise[1:2])
    assert alone.shift == pytest.approx(together.shift[1:2])


def test_shift_repeats_the_edge() -> None:
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)

    moved = shifted(picture, 1)

    assert torch.equal(moved[..., 1:, 1:], picture[..., :3, :3])
    assert torch.equal(moved[..., 0, 1:], picture[..., 0, :3])


def test_reproducibility_is_the_mean_over_pairs_of_networks(images: Tensor) -> None:
    maps = [brightness_map(images.roll(step, dims=-1)) for step in (0, 2, 5)]

    measured = reproducibility(maps)

    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([similarity(maps[a], maps[b]) for a, b in pairs], axis=0)
    assert measured.ssim == pytest.approx(expected)
    assert reproducibility([maps[0], maps[0]]).spearman == pytest.approx([1, 1, 1])
    with pytest.raises(DataError, match="at least 2 networks"):
        reproducibility(maps[:1])


def test_maps_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="at least 11 px"):
        similarity(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8))


def test_each_change_is_of_the_size_that_is_stated(images: Tensor) -> None:
    asked: list[Tensor] = []

    def remembered(pictures: Tensor) -> Tensor:
        asked.append(pictures)
        return brightness_map(pictures)

    stability(remembered, images, may_flip=True, seed=0)

    before, moved, noisy, brighter, mirrored = asked
    assert torch.equal(before, images)
    assert torch.equal(moved, shifted(images, 1))  # 32 px / 32
    assert float((noisy - images).std()) == pytest.approx(NOISE_DEVIATION, rel=0.05)
    torch.testing.assert_close((noisy - images)[0], (noisy - images)[1])
    torch.testing.assert_close(brighter - images, torch.full_like(images, BRIGHTNESS))
    assert torch.equal(mirrored, images.flip(-1))
