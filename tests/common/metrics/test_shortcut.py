"""Shares of evidence by hand: at the border, off the anatomy, on a marker."""

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.metrics.estimate import Estimate
from common.metrics.shortcut import border_cells, evidence_share, outside_cells, touched_cells


def share(maps: np.ndarray, place: np.ndarray, **changes: object) -> Estimate:
    rules: dict[str, object] = {
        "patients": np.arange(len(maps)),
        "replicates": 400,
        "min_patients": 5,
        "rng": np.random.default_rng(1),
    }
    return evidence_share(maps, place, **(rules | changes))  # type: ignore[arg-type]


def test_a_border_that_is_a_cell_wide_is_the_outer_cells() -> None:
    by_hand = border_cells(5, 5, width=0.2)
    inner = np.ones((5, 5))
    inner[1:-1, 1:-1] = 0
    assert by_hand == pytest.approx(inner)


def test_a_narrow_border_takes_its_share_of_each_cell() -> None:
    cells = border_cells(2, 2, width=0.25)
    assert cells == pytest.approx(np.full((2, 2), 0.75))  # a quarter of each cell is left
    assert border_cells(8, 3, width=0.1).mean() == pytest.approx(1 - 0.8**2)


@pytest.mark.parametrize("width", [0.0, 0.5, -1.0])
def test_a_border_leaves_something_of_the_picture(width: float) -> None:
    with pytest.raises(ConfigError, match=r"between 0 and 0\.5"):
        border_cells(4, 4, width=width)


def test_outside_is_what_the_anatomy_leaves_of_a_cell() -> None:
    anatomy = np.zeros((8, 8), dtype=bool)
    anatomy[:4, :2] = True
    assert outside_cells(anatomy, 2, 2) == pytest.approx(np.array([[0.5, 1.0], [1.0, 1.0]]))


def test_a_marker_takes_every_cell_that_it_touches() -> None:
    marker = np.zeros((8, 8), dtype=bool)
    marker[3:5, 0] = True
    assert touched_cells(marker, 2, 2).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_evidence_of_all_pictures_is_added_up_before_it_is_divided() -> None:
    maps = np.zeros((2, 1, 2))
    maps[0, 0] = 6.0, 2.0
    maps[1, 0] = 0.0, 8.0
    place = np.zeros((2, 1, 2))
    place[:, 0, 0] = 1.0
    found = share(maps, place, min_patients=9)
    assert found.value == pytest.approx(6 / 16)
    assert (found.support, found.chance) == (2, pytest.approx(0.5))


def test_what_speaks_against_a_class_is_no_evidence_for_it() -> None:
    maps = np.array([[[3.0, -5.0, 1.0]]])
    place = np.array([[[0.0, 1.0, 1.0]]])
    assert share(maps, place).value == pytest.approx(0.25)


def test_a_cell_counts_by_its_share_of_the_place() -> None:
    assert share(np.ones((1, 1, 2)), np.array([[[0.5, 0.0]]])).value == pytest.approx(0.25)


def test_pictures_that_tell_nothing_are_named_and_left_out() -> None:
    maps = np.ones((5, 2, 2))
    maps[0] = np.nan
    maps[1] = -1.0
    place = np.zeros((5, 2, 2))
    place[2] = np.nan
    found = share(maps, place)
    assert (found.value, found.support) == (0.0, 2)
    for said in ("not known in 1 of 5", "not finite in 1 of 5", "nothing speaks"):
        assert said in found.note


def test_a_place_that_is_known_nowhere_has_no_share() -> None:
    found = share(np.ones((3, 2, 2)), np.full((3, 2, 2), np.nan))
    assert (found.value, found.low, found.chance, found.support) == (None, None, None, 0)


def test_one_odd_picture_widens_the_interval_and_decides_nothing() -> None:
    maps = np.ones((20, 1, 2))
    maps[:, 0, 0] = 0.0
    maps[0, 0] = 100.0, 0.0
    place = np.zeros((20, 1, 2))
    place[:, 0, 0] = 1.0
    found = share(maps, place)
    assert found.value is not None
    assert found.value > 0.8
    assert found.low == 0.0


def test_pictures_of_one_patient_are_drawn_together() -> None:
    maps, place = np.ones((8, 1, 1)), np.ones((8, 1, 1))
    found = share(maps, place, patients=np.zeros(8, dtype=int))
    assert "1 patients, 5 needed" in found.note


def test_shapes_have_to_agree() -> None:
    with pytest.raises(DataError, match="same N pictures"):
        share(np.ones((2, 4, 4)), np.ones((2, 2, 2)))
