"""Words for places follow from shares of the positive evidence, and from nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.explanation.anatomy import WHOLE, Extent, Eye
from common.explanation.schema import Where
from common.explanation.where import CLEAR_MAJORITY, regions_of, where_each, words_of

SIDE = 12
LEFT_DISC = Eye(disc_row=0.5, disc_column=0.2, disc_diameter=0.1, source="outlined by an expert")
RIGHT_DISC = Eye(disc_row=0.5, disc_column=0.8, disc_diameter=0.1, source="outlined by an expert")


def spot(row: float, column: float) -> NDArray[np.float64]:
    """A map whose evidence is one cell, (SIDE, SIDE)."""
    values = np.full((SIDE, SIDE), -0.5)
    values[int(row * SIDE), int(column * SIDE)] = 2.0
    return values


def said(
    values: NDArray[np.float64], task: str, *, extent: Extent = WHOLE, eye: Eye | None = None
) -> Where:
    rows, columns = values.shape
    regions = regions_of(task, rows=rows, columns=columns, extent=extent, eye=eye)
    (found,) = where_each(values[None], regions)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        (0.1, 0.1, "right upper zone, mostly peripheral"),
        (0.5, 0.4, "right mid zone, mostly central"),
        (0.9, 0.9, "left lower zone, mostly peripheral"),
    ],
)
def test_the_patients_right_lung_is_on_the_pictures_left(
    row: float, column: float, words: str
) -> None:
    assert said(spot(row, column), "chestx").words == words


def test_zones_are_measured_on_the_picture_and_not_on_its_padding() -> None:
    # A broad picture: the square's upper and lower quarters are padding.
    broad = Extent(top=0.25, left=0.0, height=0.5, width=1.0)

    assert said(spot(0.4, 0.1), "chestx").words.startswith("right mid zone")
    assert said(spot(0.4, 0.1), "chestx", extent=broad).words.startswith("right upper zone")


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
def test_evidence_in_the_padding_is_no_anatomy(task: str) -> None:
    broad = Extent(top=0.25, left=0.0, height=0.5, width=1.0)

    found = said(spot(0.05, 0.5) + spot(0.95, 0.5), task, extent=broad, eye=LEFT_DISC)

    assert found.words == "padding outside the picture"
    assert found.regions == {"padding outside the picture": 1.0}


@pytest.mark.parametrize(
    ("eye", "name", "column", "words"),
    [
        # The disc is nasal: on the picture's right for a right eye.
        (RIGHT_DISC, "right eye", 0.1, "superior temporal quadrant"),
        (RIGHT_DISC, "right eye", 0.9, "superior nasal quadrant"),
        (LEFT_DISC, "left eye", 0.1, "superior nasal quadrant"),
        (LEFT_DISC, "left eye", 0.9, "superior temporal quadrant"),
    ],
)
def test_quadrants_of_an_eye_depend_on_where_its_disc_is(
    eye: Eye, name: str, column: float, words: str
) -> None:
    found = said(spot(0.2, column), "retina", eye=eye)

    assert found.words == f"{words}, mostly outside the macula"
    assert name in found.frame
    assert "outlined by an expert" in found.frame


def test_evidence_at_the_macula_is_said_to_be_there() -> None:
    macula_column = 0.8 - 2.65 * 0.1

    found = said(spot(0.5, macula_column), "retina", eye=RIGHT_DISC)

    assert found.words.endswith("mostly within the macula")


@pytest.mark.parametrize(
    "eye", [None, Eye(disc_row=0.5, disc_column=0.52, disc_diameter=0.1, source="estimated")]
)
def test_without_a_disc_that_tells_the_eye_nothing_nasal_or_temporal_is_claimed(
    eye: Eye | None,
) -> None:
    found = said(spot(0.2, 0.9), "retina", eye=eye)

    assert found.words == "upper right quarter"
    assert not any("nasal" in name or "temporal" in name for name in found.regions)
    assert "as shown" in found.frame


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [(0.5, 0.5, "centre"), (0.1, 0.5, "upper part"), (0.9, 0.1, "lower left part")],
)
def test_a_tile_has_nine_parts(row: float, column: float, words: str) -> None:
    assert said(spot(row, column), "pathoscan").words == words


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
def test_nothing_is_claimed_of_a_map_without_positive_evidence(task: str) -> None:
    regions = regions_of(task, rows=SIDE, columns=SIDE, extent=WHOLE)

    maps = np.stack([np.zeros((SIDE, SIDE)), spot(0.5, 0.5), -np.ones((SIDE, SIDE))])
    nothing, something, against = where_each(maps, regions)

    assert nothing is None
    assert against is None
    assert something == said(spot(0.5, 0.5), task)


def test_evidence_without_a_clear_majority_is_said_to_be_spread() -> None:
    found = said(np.ones((SIDE, SIDE)), "chestx")

    assert found.words.startswith("spread over ")
    assert max(found.regions.values()) < CLEAR_MAJORITY


def test_one_side_is_named_where_only_its_zones_differ() -> None:
    values = np.zeros((SIDE, SIDE))
    values[:, 0] = 1.0

    assert said(values, "chestx").words == "right side, mostly peripheral"


def test_both_sides_are_named_where_only_the_zone_is_clear() -> None:
    values = np.zeros((SIDE, SIDE))
    values[-1] = 1.0

    assert said(values, "chestx").words == "lower zones of both sides"


@given(st.integers(0, 2**32 - 1), st.sampled_from(["chestx", "retina", "pathoscan"]))
def test_words_and_shares_follow_from_the_map(seed: int, task: str) -> None:
    values = np.random.default_rng(seed).normal(size=(8, 8)) ** 3
    regions = regions_of(task, rows=8, columns=8, extent=WHOLE, eye=LEFT_DISC)

    # Between two others, which must not leak into it.
    _, found, _ = where_each(np.stack([values**2, values, -values]), regions)

    assert found is not None
    # A second way, cell by cell.
    counted = dict.fromkeys(regions.names, 0.0)
    for (row, column), value in np.ndenumerate(values):
        counted[regions.names[regions.of_cell[row, column]]] += max(0.0, float(value))
    total = sum(counted.values())
    for name, share in found.regions.items():
        assert share == pytest.approx(counted[name] / total, rel=1e-5)
    assert sum(found.regions.values()) == pytest.approx(1, abs=1e-5)
    assert list(found.regions.values()) == sorted(found.regions.values(), reverse=True)
    assert found.words == words_of(found.regions, depth=found.depth, wider=regions.wider)
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert (found.peak_row, found.peak_column) == ((row + 0.5) / 8, (column + 0.5) / 8)


def test_a_region_that_holds_next_to_nothing_is_not_listed() -> None:
    values = spot(0.1, 0.1)
    values[-1, -1] = 1e-13

    assert list(said(values, "chestx").regions.values()) == [1.0]


def test_a_map_on_another_grid_than_its_regions_is_refused() -> None:
    with pytest.raises(ValueError, match="grid"):
        where_each(np.ones((1, 4, 4)), regions_of("chestx", rows=8, columns=8, extent=WHOLE))
