"""Rank correlation with an interval over patients, against scipy on samples written out."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from common.errors import DataError
from common.metrics.association import association
from common.metrics.association_interval import (
    association_changes,
    association_estimates,
    weighted_spearman,
)


def drawn(number: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=number)


def test_each_replicate_is_scipy_s_correlation_of_the_copies_written_out() -> None:
    rng = np.random.default_rng(1)
    signs = rng.integers(0, 4, size=(30, 2)).astype(float)  # many ties
    answers = rng.normal(size=(30, 3)) + signs[:, :1]
    weights = rng.integers(0, 4, size=(5, 30)).astype(float)
    found = weighted_spearman(signs, answers, weights)
    for row, copies in enumerate(weights.astype(int)):
        which = np.repeat(np.arange(30), copies)
        for k in range(2):
            for t in range(3):
                expected = spearmanr(signs[which, k], answers[which, t]).statistic
                assert found[row, k, t] == pytest.approx(expected, abs=1e-12)


def test_the_value_is_that_of_the_plain_correlation() -> None:
    signs, answers = drawn(40).reshape(-1, 2), drawn(60, seed=2).reshape(-1, 3)
    estimates = association_estimates(
        signs,
        answers,
        np.arange(20),
        replicates=0,
        min_patients=1,
        rng=np.random.default_rng(0),
    )
    values = [[one.value for one in row] for row in estimates]
    np.testing.assert_allclose(values, association(signs, answers), atol=1e-12)
    assert estimates[0][0].note == "no interval: no replicates asked for"


def test_the_interval_is_wider_where_pictures_are_of_few_patients() -> None:
    sign = drawn(200)
    answer = sign + drawn(200, seed=3)

    def width(patients: np.ndarray) -> float:
        ((found,),) = association_estimates(
            sign[:, None],
            answer[:, None],
            patients,
            replicates=400,
            min_patients=10,
            rng=np.random.default_rng(0),
        )
        assert found.low is not None
        assert found.high is not None
        assert found.value is not None
        assert found.low < found.value < found.high
        return found.high - found.low

    grouped = np.argsort(np.argsort(sign)) // 20  # a patient's pictures are alike
    assert width(grouped) > width(np.arange(200))


def test_a_sign_that_nobody_taught_has_no_value_and_others_keep_theirs() -> None:
    signs = np.stack([np.full(30, 0.5), drawn(30), drawn(30)], axis=1)
    signs[4, 2] = np.nan
    untaught, known, diverged = association_estimates(
        signs,
        drawn(30, seed=4)[:, None],
        np.arange(30),
        replicates=100,
        min_patients=10,
        rng=np.random.default_rng(0),
    )
    assert (untaught[0].value, diverged[0].value) == (None, None)
    assert "all alike" in untaught[0].note
    assert known[0].low is not None


def test_too_few_patients_give_no_interval_and_say_so() -> None:
    ((found,),) = association_estimates(
        drawn(36)[:, None],
        drawn(36, seed=5)[:, None],
        np.arange(36) // 3,
        replicates=100,
        min_patients=20,
        rng=np.random.default_rng(0),
    )
    assert (found.low, found.high) == (None, None)
    assert found.note == "no interval: 12 patients, 20 needed"


def test_a_change_is_paired_so_that_a_model_that_stays_has_none() -> None:
    sign = drawn(60)[:, None]
    answer = sign + drawn(60, seed=6)[:, None]
    options = {"replicates": 200, "min_patients": 10}
    ((same,),) = association_changes(
        (sign, answer), (sign, answer), np.arange(60), rng=np.random.default_rng(0), **options
    )
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    ((turned,),) = association_changes(
        (sign, answer), (sign, -answer), np.arange(60), rng=np.random.default_rng(0), **options
    )
    expected = -2 * spearmanr(sign[:, 0], answer[:, 0]).statistic
    assert turned.value == pytest.approx(expected)
    assert turned.high is not None
    assert turned.high < 0


def test_numbers_of_other_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="same N pictures"):
        association_estimates(
            drawn(10)[:, None],
            drawn(9)[:, None],
            np.arange(10),
            replicates=0,
            min_patients=1,
            rng=np.random.default_rng(0),
        )
