"""One temperature makes probabilities mean what they say, and moves no decision."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.calibration import _TemperatureScaling
from sklearn.metrics import log_loss

from common.metrics.temperature import (
    HIGHEST,
    LOWEST,
    Temperature,
    calibrated,
    fit_temperature,
    grade_chances,
)
from common.tasks import TargetKind

THRESHOLDS = np.array([-1.0, 0.2, 0.9, 2.5])


def fitted(logits: NDArray[np.float64], targets: NDArray[np.float64], kind: str) -> Temperature:
    found = fit_temperature(logits, targets, kind=kind)  # type: ignore[arg-type]
    assert found is not None
    return found


def answers(logits: NDArray[np.float64], *, too_sure_by: float, seed: int) -> NDArray[np.float64]:
    """Draw 0/1 with the probabilities of logits that are this much too large."""
    rng = np.random.default_rng(seed)
    chances: NDArray[np.float64] = expit(logits / too_sure_by)
    return (rng.random(logits.shape) < chances).astype(np.float64)


def graded(pictures: int, *, too_sure_by: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(3)
    logits = 3 * rng.standard_normal((pictures, 1)) - THRESHOLDS
    chances = grade_chances(expit(logits / too_sure_by))
    grades = (chances.cumsum(axis=1) < rng.random((pictures, 1))).sum(axis=1, keepdims=True)
    return logits, grades.astype(float)


def test_a_binary_temperature_is_scikit_learn_s() -> None:
    logits = 4 * np.random.default_rng(0).standard_normal((300, 1))
    targets = answers(logits, too_sure_by=2.0, seed=1)
    two_classes = np.concatenate([np.zeros_like(logits), logits], axis=1)
    reference = _TemperatureScaling().fit(two_classes, targets[:, 0])
    found = fitted(logits, targets, "binary")
    assert found.value == pytest.approx(1 / reference.beta_, rel=1e-4)
    assert found.loss_after == pytest.approx(log_loss(targets, expit(logits / found.value)))
    assert found.loss_before == pytest.approx(log_loss(targets, expit(logits)))


def test_findings_share_one_temperature_and_unknown_ones_do_not_count() -> None:
    logits = 4 * np.random.default_rng(2).standard_normal((200, 3))
    targets = answers(logits, too_sure_by=3.0, seed=2)
    targets[::4, 1] = np.nan
    known = ~np.isnan(targets)
    alone = fitted(logits[known][:, None], targets[known][:, None], "binary")
    assert fitted(logits, targets, "multi-label").value == pytest.approx(alone.value, rel=1e-5)


def test_a_grade_s_temperature_is_the_minimum_that_another_search_finds() -> None:
    logits, targets = graded(250, too_sure_by=2.0)
    targets[:7] = np.nan
    known = ~np.isnan(targets[:, 0])

    def loss(log_temperature: NDArray[np.float64]) -> float:
        at_least = expit(logits[known] / np.exp(log_temperature[0]))
        chances = grade_chances(at_least)
        right = chances[np.arange(len(chances)), targets[known, 0].astype(int)]
        return float(-np.log(right).mean())

    reference = minimize(loss, x0=[0.0], method="Nelder-Mead", options={"xatol": 1e-9})
    found = fitted(logits, targets, "ordinal")
    assert found.value == pytest.approx(float(np.exp(reference.x[0])), rel=1e-4)
    assert found.loss_after == pytest.approx(reference.fun)
    assert found.loss_before == pytest.approx(loss(np.zeros(1)))


@pytest.mark.parametrize("too_sure_by", [0.6, 1.0, 2.5])
def test_the_temperature_that_the_answers_were_drawn_with_is_found(too_sure_by: float) -> None:
    logits = 3 * np.random.default_rng(4).standard_normal((8000, 1))
    targets = answers(logits, too_sure_by=too_sure_by, seed=5)
    assert fitted(logits, targets, "binary").value == pytest.approx(too_sure_by, rel=0.06)
    logits, targets = graded(4000, too_sure_by=too_sure_by)
    assert fitted(logits, targets, "ordinal").value == pytest.approx(too_sure_by, rel=0.06)


@pytest.mark.parametrize(("kind", "sign"), [("binary", 1.0), ("binary", -1.0)])
def test_answers_that_settle_nothing_end_at_a_bound_and_say_so(
    kind: TargetKind, sign: float
) -> None:
    logits = np.linspace(-2, 2, 40)[:, None]
    found = fitted(sign * logits, (logits > 0).astype(float), kind)
    assert found.is_bounded
    assert found.value == pytest.approx(LOWEST if sign > 0 else HIGHEST, rel=1e-3)


def test_nothing_known_or_a_diverged_model_has_no_temperature() -> None:
    logits = np.zeros((5, 1))
    assert fit_temperature(logits, np.full((5, 1), np.nan), kind="binary") is None
    assert fit_temperature(logits + np.nan, np.zeros((5, 1)), kind="binary") is None
    assert fit_temperature(np.zeros((0, 4)), np.zeros((0, 1)), kind="ordinal") is None


def test_extreme_grades_have_a_finite_loss() -> None:
    logits = np.array([[90.0, 80.0, 70.0, 60.0], [-60.0, -70.0, -80.0, -90.0]])
    found = fitted(logits, np.array([[0.0], [4.0]]), "ordinal")
    # -log σ(-90) = 90 for a grade of 0, and likewise for the other.
    assert found.loss_before == pytest.approx(90)


def test_calibration_moves_no_decision_and_grades_sum_to_one() -> None:
    logits, _ = graded(50, too_sure_by=1.0)
    for temperature in (0.5, 3.0):
        at_least = calibrated(logits, temperature)
        assert np.array_equal(at_least >= 0.5, logits >= 0)
        chances = grade_chances(at_least)
        assert chances.shape == (50, 5)
        assert chances.min() >= 0
        assert np.allclose(chances.sum(axis=1), 1)
