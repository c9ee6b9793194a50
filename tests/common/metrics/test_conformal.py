"""Prediction sets hold the right answer as often as was asked, if the pictures are alike."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import beta

from common.metrics.conformal import (
    answer_sets,
    coverage_floor,
    fewest_pictures,
    one_per_patient,
    rank_of,
    threshold,
)


@pytest.mark.parametrize(
    ("pictures", "coverage", "rank"),
    # 70 * 0.9 is 63.00000000000001 and 20 * 0.95 is 19.0 in floating point; 63 and 19 by hand.
    [(69, 0.9, 63), (9, 0.9, 9), (8, 0.9, 9), (19, 0.95, 19), (99, 0.99, 99), (100, 0.9, 91)],
)
def test_the_rank_is_that_of_the_decimal_number_asked_for(
    pictures: int, coverage: float, rank: int
) -> None:
    assert rank_of(pictures, coverage=coverage) == rank


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_too_few_pictures_have_no_threshold_and_one_more_has(coverage: float) -> None:
    fewest = fewest_pictures(coverage)
    scores = np.random.default_rng(0).random(fewest)
    assert threshold(scores[1:], coverage=coverage) is None
    assert threshold(scores, coverage=coverage) == scores.max()


def test_the_threshold_is_numpy_s_higher_quantile_at_the_corrected_level() -> None:
    scores = np.random.default_rng(1).random(57)
    reference = np.quantile(scores, np.ceil(58 * 0.8) / 57, method="inverted_cdf")
    assert threshold(scores, coverage=0.8) == reference


def drawn(pictures: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Nonconformities (N, 3) of a model that is right about its chances only roughly."""
    logits = 1.5 * rng.standard_normal((pictures, 3)) + (1.0, 0.0, -1.0)
    truth = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((pictures, 1))).sum(axis=1)
    return 1 - softmax(2.5 * logits, axis=1), truth


@pytest.mark.parametrize("pictures", [12, 40])
@pytest.mark.parametrize("is_ordered", [False, True])
def test_coverage_over_many_draws_is_what_was_asked(pictures: int, is_ordered: bool) -> None:
    """Of n exchangeable scores the coverage is Beta distributed with mean ≥ ceil((n+1)c)/(n+1)."""
    rng = np.random.default_rng(2)
    coverage, draws = 0.8, 150
    covered = []
    for _ in range(draws):
        scores, truth = drawn(pictures, rng)
        limit = threshold(scores[np.arange(pictures), truth], coverage=coverage)
        assert limit is not None
        fresh, right = drawn(100, rng)
        members = answer_sets(fresh, np.full(3, limit), is_ordered=is_ordered)
        covered.append(members[np.arange(100), right].mean())
    # Standard error of the mean over draws: below 0.01.
    assert np.mean(covered) > coverage - 0.02
    if not is_ordered:
        assert np.mean(covered) < rank_of(pictures, coverage=coverage) / (pictures + 1) + 0.02


def test_with_thresholds_of_their_own_rare_answers_are_covered_too() -> None:
    rng = np.random.default_rng(3)
    scores, truth = drawn(3000, rng)
    fresh, right = drawn(3000, rng)
    own = [threshold(scores[truth == a, a], coverage=0.9) for a in range(3)]
    pooled = threshold(scores[np.arange(3000), truth], coverage=0.9)
    assert pooled is not None

    def of_rarest(limits: NDArray[np.float64]) -> float:
        members = answer_sets(fresh, limits, is_ordered=False)
        return float(members[right == 2, 2].mean())

    assert of_rarest(np.array(own, float)) == pytest.approx(0.9, abs=0.04)
    assert of_rarest(np.full(3, pooled)) < 0.8


def test_grades_between_two_members_are_members_and_sets_may_be_empty() -> None:
    scores = np.array([[0.1, 0.9, 0.2, 0.9], [0.9, 0.9, 0.9, 0.9], [0.9, 0.1, 0.9, 0.9]])
    limits = np.full(4, 0.5)
    ordered = answer_sets(scores, limits, is_ordered=True)
    assert ordered.tolist() == [[True, True, True, False], [False] * 4, [False, True, False, False]]
    plain = answer_sets(scores, limits, is_ordered=False)
    assert plain[0].tolist() == [True, False, True, False]


def test_each_patient_is_drawn_once_and_each_of_its_pictures_equally_often() -> None:
    patients = np.array([7, 7, 7, 3, 9, 9])
    rng = np.random.default_rng(4)
    counts = np.zeros(6)
    for _ in range(3000):
        rows = one_per_patient(patients, rng)
        assert patients[rows].tolist() == [7, 3, 9]
        counts[rows] += 1
    assert counts / 3000 == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1, 1 / 2, 1 / 2], abs=0.03)
    assert one_per_patient(np.array([], np.int32), rng).size == 0


@pytest.mark.parametrize("pictures", [9, 40, 400])
def test_one_calibration_part_in_twenty_covers_less_than_the_floor(pictures: int) -> None:
    """Uniform nonconformities: what a threshold covers of new ones is the threshold itself."""
    rng = np.random.default_rng(4)
    covered = np.array([threshold(rng.random(pictures), coverage=0.9) for _ in range(4000)])

    floor = coverage_floor(pictures, coverage=0.9)

    rank = rank_of(pictures, coverage=0.9)
    assert floor == pytest.approx(beta.ppf(0.05, rank, pictures + 1 - rank))
    assert np.mean(covered < floor) == pytest.approx(0.05, abs=0.012)
