"""Resampling patients: draws, intervals, and when there is no interval."""

import json

import numpy as np
import pytest

from common.errors import ConfigError
from common.metrics import bootstrap as module
from common.metrics.bootstrap import (
    Float64Array,
    Statistic,
    bootstrap,
    patient_weights,
    percentile_interval,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none


def mean_of(values: Float64Array) -> Statistic:
    return lambda weights: ratio(weights @ values, weights.sum(axis=1))


def test_pictures_of_one_patient_are_drawn_together() -> None:
    patients = np.array([7, 7, 3, 9, 3])
    weights = patient_weights(patients, replicates=50, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[:, 2], weights[:, 4])


def test_each_replicate_draws_as_many_patients_as_there_are() -> None:
    weights = patient_weights(np.arange(40), replicates=50, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(weights.sum(axis=1), 40)
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(1 - 1 / 40, abs=0.1)  # of a multinomial count


def test_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=400)
    drawn = bootstrap(mean_of(values), np.arange(400), replicates=4000, rng=rng)
    half_width = 1.96 * values.std() / np.sqrt(400)
    expected = (values.mean() - half_width, values.mean() + half_width)
    assert percentile_interval(drawn) == pytest.approx(expected, abs=0.01)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        patient_effect = np.repeat(rng.normal(size=50), 4)
        values = patient_effect + rng.normal(size=200)
        patients = np.repeat(np.arange(50), 4)
        drawn = bootstrap(mean_of(values), patients, replicates=400, rng=rng)
        low, high = percentile_interval(drawn)
        covered += low <= 0 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_over_patients_is_wider_than_over_pictures_when_patients_repeat() -> None:
    rng = np.random.default_rng(3)
    values = np.repeat(rng.normal(size=40), 5)  # five alike pictures each
    over = {
        name: percentile_interval(bootstrap(mean_of(values), codes, replicates=2000, rng=rng))
        for name, codes in {
            "patients": np.repeat(np.arange(40), 5),
            "pictures": np.arange(200),
        }.items()
    }
    widths = {name: high - low for name, (low, high) in over.items()}
    assert widths["patients"] / widths["pictures"] == pytest.approx(np.sqrt(5), rel=0.15)


def test_portions_of_replicates_do_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, patients = np.arange(30.0), np.arange(30) // 2
    whole = bootstrap(mean_of(values), patients, replicates=25, rng=np.random.default_rng(4))
    monkeypatch.setattr(module, "WEIGHTS_AT_ONCE", 90)
    portioned = bootstrap(mean_of(values), patients, replicates=25, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(whole, portioned)


def test_no_interval_where_the_statistic_is_often_undefined() -> None:
    values = np.arange(100.0)
    values[:6] = np.nan
    assert percentile_interval(values) is None
    assert percentile_interval(np.full(10, np.nan)) is None
    values[5] = 5
    assert percentile_interval(values) is not None


def test_no_replicates_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 replicate"):
        bootstrap(mean_of(np.ones(3)), np.arange(3), replicates=0, rng=np.random.default_rng(0))


def test_estimate_is_ready_for_json_without_nan() -> None:
    estimate = Estimate(
        value=finite_or_none(float("nan")),
        low=None,
        high=None,
        support=0,
        positives=0,
        positive_patients=0,
        chance=0.5,
        note="not defined",
    )
    assert json.loads(json.dumps(estimate.as_dict(), allow_nan=False))["value"] is None
