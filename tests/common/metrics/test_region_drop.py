"""Filling in a region, and what the logit loses by it there and elsewhere."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import DataError
from common.metrics.region_drop import inpainted, region_drop, strongest_region

SIDE_PX = 32


def square(top: int, left: int, side: int = 6) -> np.ndarray:
    region = np.zeros((1, SIDE_PX, SIDE_PX), dtype=bool)
    region[0, top : top + side, left : left + side] = True
    return region


def brightness(pictures: Tensor) -> Tensor:
    return pictures.mean(dim=1).sum(dim=(1, 2))


def test_filling_in_depends_on_the_surroundings_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand((1, 3, SIDE_PX, SIDE_PX), generator=generator)
    region = torch.from_numpy(square(10, 12))
    other = torch.where(region[:, None], 100.0, picture)

    filled, filled_other = inpainted(picture, region), inpainted(other, region)

    assert torch.equal(filled, filled_other)
    assert torch.equal(filled[:, :, ~region[0]], picture[:, :, ~region[0]])
    inside = filled[:, :, region[0]]
    assert float(inside.min()) > 0.2
    assert float(inside.max()) < 0.8


def test_even_picture_is_filled_in_evenly_and_a_ramp_nearly_so() -> None:
    even = torch.full((1, 3, 30, 33), 0.7)  # sides that cannot be halved evenly
    ramp = torch.linspace(0, 1, SIDE_PX).expand(1, 3, SIDE_PX, SIDE_PX)
    region = torch.from_numpy(square(13, 13))

    hole = torch.zeros(1, 30, 33, dtype=torch.bool)
    hole[0, 5:20, 6:30] = True
    torch.testing.assert_close(inpainted(even, hole), even)
    assert float((inpainted(ramp, region) - ramp).abs().max()) < 0.1


def test_drop_of_a_bright_spot_is_its_brightness_and_nothing_elsewhere() -> None:
    region = square(4, 20)
    images = torch.from_numpy(region)[:, None].float().expand(-1, 3, -1, -1) * 2

    measured = region_drop(brightness, images, region, seed=0)

    assert measured.inside == pytest.approx([2 * 36])
    assert measured.elsewhere == pytest.approx([0], abs=0.5)
    assert measured.placements == (8,)


def test_other_places_have_the_same_shape_and_do_not_touch_the_region() -> None:
    region = square(8, 8, side=10)
    painted: list[Tensor] = []

    def remembered(pictures: Tensor) -> Tensor:
        painted.append(pictures)
        return brightness(pictures)

    noise = torch.rand((1, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(0))
    images = noise + 5 * torch.from_numpy(region)[:, None]

    measured = region_drop(remembered, images, region, seed=1, placements=20)

    changed = (torch.cat(painted[1:]) != images).any(dim=1)  # whole pictures come first
    assert changed.sum(dim=(1, 2)).tolist() == [100] * 21
    assert torch.equal(changed[0], torch.from_numpy(region)[0])
    near = torch.nn.functional.max_pool2d(torch.from_numpy(region).float(), 3, 1, 1)[0] > 0
    cross = torch.zeros_like(near)
    cross[7:19, 8:18] = True
    cross[8:18, 7:19] = True
    assert near.sum() > cross.sum()
    assert not (changed[1:] & cross).any()
    assert measured.inside[0] > 100 * 4
    assert abs(measured.elsewhere[0]) < 100


def test_scattered_region_is_moved_around_the_borders() -> None:
    region = square(0, 0) | square(26, 26)  # corner to corner: it cannot move without wrapping
    images = torch.from_numpy(region)[:, None].float().expand(-1, 3, -1, -1)

    measured = region_drop(brightness, images, region, seed=0)

    assert measured.placements == (8,)
    assert measured.inside == pytest.approx([72])
    assert abs(measured.elsewhere[0]) < 7


def test_without_a_region_or_a_place_for_it_there_is_no_number() -> None:
    regions = np.concatenate([np.zeros((1, SIDE_PX, SIDE_PX), bool), square(2, 2, side=28)])

    measured = region_drop(brightness, torch.ones(2, 3, SIDE_PX, SIDE_PX), regions, seed=0)

    assert np.isnan(measured.inside).tolist() == [True, False]
    assert np.isnan(measured.elsewhere).all()
    assert measured.placements == (0, 0)


def test_strongest_region_has_the_area_asked_for() -> None:
    maps = torch.rand((2, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(0))
    maps[1] = 0

    found = strongest_region(maps, share=0.05)

    assert found.sum(axis=(1, 2)).tolist() == [round(0.05 * SIDE_PX**2), 0]
    assert float(maps[0][found[0]].min()) > float(maps[0][~found[0]].max())


def test_regions_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match="one region"):
        region_drop(brightness, torch.ones(1, 3, 8, 8), square(1, 1), seed=0)


def test_a_map_that_names_no_place_has_no_drop_even_by_itself() -> None:
    nothing = np.zeros((1, SIDE_PX, SIDE_PX), dtype=bool)

    measured = region_drop(brightness, torch.rand(1, 3, SIDE_PX, SIDE_PX), nothing, seed=0)

    assert np.isnan(measured.inside).all()
    assert np.isnan(measured.elsewhere).all()
    assert measured.placements == (0,)


def test_elsewhere_is_the_mean_over_the_places() -> None:
    """A weight for each pixel and a region of one pixel: the drop is known by hand."""
    draw = torch.Generator().manual_seed(3)
    weights = torch.rand(SIDE_PX, SIDE_PX, generator=draw)
    answers: list[Tensor] = []

    def weighed(pictures: Tensor) -> Tensor:
        answers.append((pictures.mean(dim=1) * weights).sum(dim=(1, 2)))
        return answers[-1]

    images = torch.rand(1, 3, SIDE_PX, SIDE_PX, generator=draw)
    measured = region_drop(weighed, images, square(3, 5, side=1), seed=0)

    whole, painted = answers[0], torch.cat(answers[1:])
    assert measured.inside[0] == pytest.approx(float(whole - painted[0]), abs=1e-5)
    assert len(painted) == 1 + 8
    assert measured.elsewhere[0] == pytest.approx(float((whole - painted[1:]).mean()), abs=1e-5)
