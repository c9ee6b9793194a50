"""Localisation: by hand, against other libraries, and chance by simulation."""

import math
from collections.abc import Iterable

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.metrics.bootstrap import Float64Array
from common.metrics.geometry import (
    BoolArray,
    cell_coverage,
    dilated,
)
from common.metrics.localisation import (
    Localisation,
    LocalisationReport,
    LocalisedCase,
    localisation_metrics,
    localise,
)


def rectangle(
    height: int, width: int, *, rows: tuple[int, int], columns: tuple[int, int]
) -> BoolArray:
    mask = np.zeros((height, width), dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_numbers_of_a_small_map_by_hand() -> None:
    saliency = np.array([[4.0, 1.0], [0.0, -9.0]])  # one value per pixel
    found = localise(saliency, np.array([[True, False], [True, False]]))
    assert found == Localisation(
        hit=1,
        hit_chance=0.5,
        energy=pytest.approx(0.8),
        energy_chance=0.5,
        iou=pytest.approx(1 / 3),  # brightest two pixels: the upper row
        iou_chance=pytest.approx(1 / 3),  # a row and a column share one pixel wherever they are
        has_positive_evidence=True,
    )


def test_a_map_equal_to_the_roi_is_perfect() -> None:
    roi = rectangle(64, 64, rows=(8, 24), columns=(16, 40))
    found = localise(cell_coverage(roi, 64, 64), roi)
    assert (found.hit, found.energy) == (1, 1)
    assert found.iou == pytest.approx(1)


def test_energy_of_a_coarse_map_counts_cells_by_the_share_the_roi_covers() -> None:
    saliency = np.zeros((4, 4))
    saliency[1, 1], saliency[1, 2] = 3, 1
    found = localise(
        saliency, rectangle(32, 32, rows=(8, 16), columns=(8, 20))
    )  # cell (1,1) and half of (1,2)
    assert found.energy == pytest.approx((3 + 0.5) / 4)


def test_evidence_outside_scores_nothing() -> None:
    saliency = np.zeros((8, 8))
    saliency[7, 7] = 1
    found = localise(saliency, rectangle(64, 64, rows=(0, 16), columns=(0, 16)))
    assert (found.hit, found.energy) == (0, 0)


def test_a_flat_map_scores_chance() -> None:
    roi = rectangle(60, 50, rows=(3, 23), columns=(5, 30))
    found = localise(np.full((7, 6), 0.1, dtype=np.float32), roi, tolerance_px=2)
    assert found.hit == pytest.approx(found.hit_chance)
    assert found.energy == pytest.approx(found.energy_chance)
    assert found.iou == pytest.approx(found.iou_chance)


def test_tolerance_widens_the_target_and_its_chance_alike() -> None:
    saliency = np.zeros((16, 16))
    saliency[4, 8] = 1
    roi = rectangle(16, 16, rows=(4, 6), columns=(2, 6))  # three pixels short of the maximum
    assert localise(saliency, roi).hit == 0
    near = localise(saliency, roi, tolerance_px=3)
    assert near.hit == 1
    assert near.hit_chance == dilated(roi, 3).mean()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_map_that_points_nowhere_is_a_miss(value: float) -> None:
    saliency = np.full((4, 4), -1.0)
    saliency[1, 2] = value
    found = localise(saliency, rectangle(32, 32, rows=(0, 16), columns=(0, 8)))
    assert (found.hit, found.energy, found.iou) == (0, 0, 0)
    assert not found.has_positive_evidence
    assert found.energy_chance == 0.125
    assert found.iou_chance == pytest.approx(0.125 / 1.875)


def test_an_empty_roi_is_not_scored() -> None:
    assert localise(np.ones((4, 4)), np.zeros((32, 32), dtype=bool)) is None


def test_scale_of_the_map_does_not_matter() -> None:
    saliency = np.random.default_rng(4).random((8, 8))
    roi = rectangle(64, 64, rows=(10, 30), columns=(10, 30))
    tiny = localise((saliency * 1e-30).astype(np.float32), roi)
    assert tiny.energy == pytest.approx(localise(saliency, roi).energy, rel=1e-5)


def test_shapes_that_are_no_map_or_mask_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(2, 4, 4\)"):
        localise(np.ones((2, 4, 4)), np.ones((8, 8), dtype=bool))


def test_negative_tolerance_is_refused() -> None:
    with pytest.raises(ConfigError, match="tolerance_px"):
        localise(np.ones((4, 4)), np.ones((8, 8), dtype=bool), tolerance_px=-1)


def mean_above_chance(found: list[Localisation]) -> tuple[Float64Array, Float64Array]:
    """Return means of hit, energy and IoU above chance, and their standard errors."""
    rows = [(x.hit - x.hit_chance, x.energy - x.energy_chance, x.iou - x.iou_chance) for x in found]
    return np.mean(rows, axis=0), np.std(rows, axis=0) / np.sqrt(len(rows))


def test_random_pixels_score_chance() -> None:
    rng = np.random.default_rng(5)
    roi = rectangle(20, 20, rows=(2, 10), columns=(3, 9))
    excess, error = mean_above_chance([localise(rng.random((20, 20)), roi) for _ in range(1500)])
    assert (np.abs(excess) < 4 * error).all()


def test_random_coarse_maps_score_chance_over_random_places_of_the_roi() -> None:
    rng = np.random.default_rng(6)
    found = []
    for _ in range(2000):
        height, width = rng.integers(5, 14, size=2).tolist()
        roi = rectangle(32, 32, rows=(0, height), columns=(0, width))
        roi = np.roll(roi, rng.integers(32, size=2), axis=(0, 1))
        found.append(localise(rng.random((8, 8)), roi))
    excess, error = mean_above_chance(found)
    assert (np.abs(excess) < 4 * error).all()


def test_chance_iou_of_loose_pixels_is_the_hypergeometric_expectation() -> None:
    from scipy.stats import hypergeom

    rng = np.random.default_rng(7)
    roi = rng.random((30, 30)) < 0.2
    area = int(roi.sum())
    overlap = np.arange(area + 1)
    expected = (hypergeom(900, area, area).pmf(overlap) * overlap / (2 * area - overlap)).sum()
    drawn = [localise(rng.random((30, 30)), roi).iou_chance for _ in range(20)]
    assert np.mean(drawn) == pytest.approx(expected, rel=0.02)


def make_cases(
    rng: np.random.Generator, name: str, patients: Iterable[int], *, energy: float
) -> list[LocalisedCase]:
    return [
        LocalisedCase(
            class_name=name,
            patient=patient,
            localisation=Localisation(
                hit=float(rng.random() < 0.8),
                hit_chance=0.1,
                energy=float(np.clip(rng.normal(energy, 0.1), 0, 1)),
                energy_chance=0.1,
                iou=0.3,
                iou_chance=0.05,
                has_positive_evidence=True,
            ),
        )
        for patient in patients
    ]


def measure(
    rows: list[LocalisedCase], *, replicates: int = 300, needed: int = 20
) -> LocalisationReport:
    return localisation_metrics(
        rows, replicates=replicates, min_patients=needed, rng=np.random.default_rng(0)
    )


def test_averages_are_over_cases_and_over_classes() -> None:
    rng = np.random.default_rng(8)
    mass = make_cases(rng, "Mass", range(60), energy=0.5)
    nodule = make_cases(rng, "Nodule", range(40, 70), energy=0.2)
    report = measure(mass + nodule)
    of_mass = np.mean([case.localisation.energy for case in mass])
    of_nodule = np.mean([case.localisation.energy for case in nodule])
    assert report.per_class["Mass"]["energy_in_roi"].value == pytest.approx(of_mass)
    assert report.average["energy_in_roi"].value == pytest.approx(
        (60 * of_mass + 30 * of_nodule) / 90
    )
    assert report.average["energy_in_roi"].positive_patients == 70
    assert report.class_average["energy_in_roi"].value == pytest.approx((of_mass + of_nodule) / 2)
    assert report.class_average["energy_in_roi"].low is not None


def test_above_chance_is_decided_by_its_own_interval() -> None:
    rng = np.random.default_rng(9)
    good = measure(make_cases(rng, "Mass", range(60), energy=0.4)).average
    none = measure(make_cases(rng, "Mass", range(60), energy=0.1)).average
    assert good["energy_in_roi_above_chance"].low > 0
    assert none["energy_in_roi_above_chance"].low <= 0
    assert good["energy_in_roi"].chance == pytest.approx(0.1)
    assert good["energy_in_roi_above_chance"].value == pytest.approx(
        good["energy_in_roi"].value - 0.1
    )


def test_above_chance_interval_is_paired_picture_by_picture() -> None:
    # Large lesions are easy and likely by chance: only the pairing shows how steady the gain is.
    rows = [
        LocalisedCase(
            class_name="Mass",
            patient=patient,
            localisation=Localisation(
                hit=1,
                hit_chance=0.5,
                energy=size + 0.2,
                energy_chance=size,
                iou=size,
                iou_chance=size,
                has_positive_evidence=True,
            ),
        )
        for patient, size in enumerate(np.linspace(0.1, 0.7, 40).tolist())
    ]
    average = measure(rows).average
    above = average["energy_in_roi_above_chance"]
    assert above.high - above.low == pytest.approx(0, abs=1e-9)
    assert average["energy_in_roi"].high - average["energy_in_roi"].low > 0.05


def test_interval_of_the_mean_is_over_patients() -> None:
    rng = np.random.default_rng(10)
    cases = make_cases(rng, "Mass", range(30), energy=0.5)
    copies = [case for case in cases for _ in range(6)]
    once, six_times = measure(cases).average, measure(copies).average
    assert six_times["energy_in_roi"].low == pytest.approx(once["energy_in_roi"].low)
    assert six_times["energy_in_roi"].support == 180


def test_few_patients_give_no_interval() -> None:
    rng = np.random.default_rng(11)
    rows = make_cases(rng, "Mass", range(30), energy=0.5)
    rows += make_cases(rng, "Nodule", [30, 31, 31], energy=0.5)
    report = measure(rows)
    nodule = report.per_class["Nodule"]["pointing_hit"]
    assert (nodule.low, nodule.support) == (None, 3)
    assert nodule.note == "no interval: 2 patients with an ROI, 20 needed"
    assert report.average["pointing_hit"].low is not None
    assert report.class_average["pointing_hit"].note == (
        "average of 2 classes: Mass, Nodule; "
        "no interval: 2 patients with an ROI, 20 needed (Nodule)"
    )


def test_pictures_without_roi_do_not_count_and_are_reported() -> None:
    rng = np.random.default_rng(12)
    rows = make_cases(rng, "Mass", range(25), energy=0.5)
    rows += [LocalisedCase("Mass", 90, None), LocalisedCase("Edema", 91, None)]
    report = measure(rows)
    assert report.cases_without_roi == 2
    assert report.per_class["Mass"]["pointing_hit"].support == 25
    assert report.per_class["Edema"]["pointing_hit"].value is None
    assert report.per_class["Edema"]["pointing_hit"].note == "not defined: no picture with an ROI"
    assert report.class_average["pointing_hit"].value is not None


def test_maps_without_positive_evidence_count_as_misses_and_are_reported() -> None:
    roi = rectangle(16, 16, rows=(0, 8), columns=(0, 8))
    good = np.kron(np.array([[1.0, 0.0], [0.0, 0.0]]), np.ones((2, 2)))
    rows = [LocalisedCase("Mass", p, localise(good, roi)) for p in range(3)]
    rows += [LocalisedCase("Mass", 3, localise(-good, roi))]
    report = measure(rows, replicates=0, needed=1)
    assert report.maps_without_positive_evidence == 1
    assert report.average["energy_in_roi"].value == pytest.approx(0.75)
    assert report.average["energy_in_roi"].note == (
        "1 of 4 maps without positive evidence; no interval: no replicates asked for"
    )


def test_no_case_at_all_is_said() -> None:
    report = measure([])
    assert report.per_class == {}
    assert report.average["pointing_hit"].value is None
    assert report.class_average["iou_matched_area_above_chance"].value is None
    assert report.average["pointing_hit"].note == "not defined: no picture with an ROI"


def test_negative_replicates_are_refused() -> None:
    with pytest.raises(ConfigError, match="replicates"):
        measure([], replicates=-1)
