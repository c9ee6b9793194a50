"""Picture and ROI move together, by as much as the configuration allows, the same for one seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.config.run import AugmentConfig
from common.datasets.transforms import Augmentation, denormalise, jitter, normalise, random_warp

STILL = AugmentConfig(
    rotation_deg=0.0,
    translate_fraction=0.0,
    scale=(1.0, 1.0),
    shear_deg=0.0,
    horizontal_flip=0.0,
    vertical_flip=0.0,
    elastic_alpha_px=0.0,
    elastic_sigma_px=8.0,
    brightness=0.0,
    contrast=0.0,
)


def augmentation(seed: int = 0, **changes: object) -> Augmentation:
    return Augmentation(STILL.model_copy(update=changes), torch.Generator().manual_seed(seed))


def square(batch: int = 1, size: int = 32) -> Tensor:
    picture = torch.zeros(batch, 1, size, size)
    picture[:, :, 8:16, 4:20] = 1
    return picture


def centre_of(picture: Tensor) -> tuple[float, float]:
    weight = picture[0, 0]
    axis = torch.arange(weight.shape[-1]) + 0.5
    return (weight.sum(0) @ axis / weight.sum()).item(), (
        weight.sum(1) @ axis / weight.sum()
    ).item()


@st.composite
def augmentations(draw: st.DrawFn) -> Augmentation:
    flip = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return augmentation(
        draw(st.integers(0, 2**31)),
        rotation_deg=draw(st.floats(0, 180)),
        translate_fraction=draw(st.floats(0, 0.2)),
        scale=(0.8, 1.25),
        shear_deg=draw(st.floats(0, 20)),
        elastic_alpha_px=draw(st.floats(0, 4)),
        horizontal_flip=flip,
        vertical_flip=flip,
    )


@given(augmentations())
@settings(max_examples=40, deadline=None)
def test_a_picture_that_is_its_own_mask_stays_so(random: Augmentation) -> None:
    picture = square(batch=3)
    warp = random_warp(3, 32, random)
    rows = torch.tensor([2, 0])
    assert torch.equal(warp(picture)[rows], warp(picture[rows], rows))


def test_nothing_asked_for_changes_nothing() -> None:
    picture = torch.rand(2, 3, 32, 32)
    random = augmentation()
    moved = jitter(random_warp(2, 32, random)(picture), random)
    assert torch.allclose(moved, picture, atol=1e-5)


def test_equal_seeds_warp_alike() -> None:
    changes = {"rotation_deg": 20.0, "elastic_alpha_px": 3.0}
    one, two = (random_warp(4, 32, augmentation(5, **changes)).grid for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(("flip", "dimension"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_a_certain_flip_mirrors(flip: float, dimension: int) -> None:
    picture = torch.rand(2, 1, 32, 32)
    moved = random_warp(2, 32, augmentation(**{flip: 1.0}))(picture)
    assert torch.allclose(moved, picture.flip(dimension), atol=1e-5)


def test_translation_moves_no_further_than_allowed() -> None:
    start = centre_of(square())
    for seed in range(20):
        moved = random_warp(1, 32, augmentation(seed, translate_fraction=0.1))(square())
        x, y = centre_of(moved)
        assert max(abs(x - start[0]), abs(y - start[1])) <= 3.2 + 0.05


def test_rotation_turns_no_further_than_allowed() -> None:
    blob = torch.zeros(1, 1, 64, 64)
    blob[:, :, 30:34, 50:54] = 1  # 20 px right of the centre
    for seed in range(20):
        x, y = centre_of(random_warp(1, 64, augmentation(seed, rotation_deg=10.0))(blob))
        angle = torch.rad2deg(torch.atan2(torch.tensor(y - 32), torch.tensor(x - 32)))
        assert abs(angle) <= 10.5
        assert abs(((x - 32) ** 2 + (y - 32) ** 2) ** 0.5 - 20) < 0.3


def test_scale_stays_within_its_range() -> None:
    disc = torch.zeros(1, 1, 64, 64)
    disc[:, :, 22:42, 22:42] = 1
    areas = [
        random_warp(1, 64, augmentation(seed, scale=(0.8, 1.25)))(disc).sum().item() / 400
        for seed in range(40)
    ]
    assert 0.8**2 - 0.02 <= min(areas) < 0.8
    assert 1.25 < max(areas) <= 1.25**2 + 0.02


@given(st.integers(0, 2**31), st.floats(0.5, 6), st.floats(4, 40))
@settings(max_examples=30, deadline=None)
def test_elastic_displacement_stays_below_alpha_and_is_smooth(
    seed: int, alpha: float, sigma: float
) -> None:
    still = random_warp(1, 48, augmentation()).grid
    random = augmentation(seed, elastic_alpha_px=alpha, elastic_sigma_px=sigma)
    field_px = (random_warp(1, 48, random).grid - still) * 24
    assert field_px.abs().max() <= alpha + 1e-4
    assert field_px.abs().max() > 0.02 * alpha
    # A cubic B-spline's slope is at most 2 alpha per spacing.
    assert field_px.diff(dim=1).abs().max() <= 2 * alpha / sigma + 1e-4


def test_each_picture_is_moved_differently() -> None:
    moved = random_warp(2, 32, augmentation(rotation_deg=90.0))(square(batch=2))
    assert not torch.allclose(moved[0], moved[1], atol=0.1)


def test_brightness_and_contrast_stay_in_range() -> None:
    picture = torch.rand(8, 3, 16, 16)
    random = augmentation(brightness=0.3, contrast=0.5)
    changed = jitter(picture, random)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.allclose(changed, picture)


def test_brightness_alone_shifts() -> None:
    picture = torch.full((1, 1, 4, 4), 0.5)
    changed = jitter(picture, augmentation(seed=1, brightness=0.1))
    assert 0 < (changed - 0.5).abs().max() <= 0.1
    assert changed.std() == 0


def test_normalised_pictures_can_be_shown_again() -> None:
    picture = torch.rand(2, 1, 8, 8)
    assert torch.allclose(denormalise(normalise(picture)), picture.expand(-1, 3, -1, -1), atol=1e-6)
