"""The optic disc is found where it stands out; else nothing is claimed."""

import numpy as np
import pytest
from numpy.typing import NDArray

from common.explanation.optic_disc import disc_of_mask, find_disc

SIDE = 128


def fundus(*bright: tuple[float, float, float]) -> NDArray[np.uint8]:
    """A dim round retina with bright round places (row, column, diameter), (SIDE, SIDE, 3)."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    picture = np.zeros((SIDE, SIDE, 3))
    picture[np.hypot(rows - 0.5, columns - 0.5) < 0.48] = (110, 60, 30)
    for row, column, diameter in bright:
        picture[np.hypot(rows - row, columns - column) < diameter / 2] = (230, 190, 120)
    noise = np.random.default_rng(1).normal(0, 4, picture.shape)
    return np.asarray(np.clip(picture + noise * (picture > 0), 0, 255), dtype=np.uint8)


@pytest.mark.parametrize(("row", "column"), [(0.5, 0.2), (0.45, 0.8), (0.6, 0.3)])
def test_the_disc_is_found(row: float, column: float) -> None:
    found = find_disc(fundus((row, column, 0.13)))

    assert found is not None
    assert np.hypot(found.disc_row - row, found.disc_column - column) < 0.13 / 2
    assert "estimated" in found.source


@pytest.mark.parametrize(
    "picture",
    [
        fundus(),  # nothing stands out
        fundus((0.5, 0.2, 0.13), (0.4, 0.75, 0.13)),  # two do
        np.zeros((SIDE, SIDE, 3), dtype=np.uint8),
        np.full((SIDE, SIDE, 3), 90, dtype=np.uint8),
    ],
    ids=["none", "two", "black", "flat"],
)
def test_nothing_is_claimed_where_no_single_place_stands_out(picture: NDArray[np.uint8]) -> None:
    assert find_disc(picture) is None


def test_small_bright_exudates_are_no_disc() -> None:
    exudates = [(0.3 + 0.08 * step, 0.7, 0.03) for step in range(5)]

    found = find_disc(fundus((0.5, 0.2, 0.13), *exudates))

    assert found is not None
    assert found.disc_column == pytest.approx(0.2, abs=0.06)


def test_an_outlined_disc_is_taken_as_it_is() -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[40:60, 70:90] = True

    found = disc_of_mask(mask)

    assert found is not None
    assert (found.disc_row, found.disc_column) == pytest.approx((0.5, 0.8))
    assert np.pi * (found.disc_diameter / 2) ** 2 == pytest.approx(0.04)
    assert disc_of_mask(np.zeros((4, 4), dtype=bool)) is None


def test_a_grey_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(S, S, 3\)"):
        find_disc(np.zeros((8, 8, 1), dtype=np.uint8))
