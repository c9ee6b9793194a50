"""A mean over pictures says what it rests on."""

import numpy as np
import pytest

from common.metrics.mean_estimate import mean_estimate


def test_interval_is_that_of_a_bootstrap_over_patients_done_by_hand() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(12), 2)
    values = rng.normal(size=24) + np.repeat(rng.normal(size=12), 2)

    measured = mean_estimate(
        values, patients, replicates=2000, min_patients=10, rng=np.random.default_rng(1)
    )

    of_patient = values.reshape(12, 2).mean(axis=1)
    drawn = of_patient[rng.integers(12, size=(4000, 12))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert measured.value == pytest.approx(values.mean())
    assert measured.low == pytest.approx(low, abs=0.05)
    assert measured.high == pytest.approx(high, abs=0.05)
    assert measured.support == 24


def test_pictures_without_a_value_are_left_out_and_counted() -> None:
    measured = mean_estimate(
        np.array([1.0, np.nan, 3.0]),
        np.arange(3),
        replicates=0,
        min_patients=2,
        rng=np.random.default_rng(0),
        chance=0.5,
    )

    assert (measured.value, measured.support, measured.chance) == (2.0, 2, 0.5)
    assert "not defined for 1 of 3 pictures" in measured.note


def test_without_a_value_or_with_few_patients_there_is_a_reason() -> None:
    nothing = mean_estimate(
        np.full(3, np.nan), np.arange(3), replicates=100, min_patients=2,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    few = mean_estimate(
        np.array([1.0, 2.0]), np.zeros(2, dtype=int), replicates=100, min_patients=2,
        rng=np.random.default_rng(0),
    )  # fmt: skip

    assert (nothing.value, nothing.support) == (None, 0)
    assert (few.value, few.low) == (1.5, None)
    assert "1 patients, 2 needed" in few.note
