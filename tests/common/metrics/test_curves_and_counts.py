"""Weighted metrics agree with scikit-learn for every row of weights."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from common.metrics.bootstrap import Float64Array
from common.metrics.calibration import brier_score, expected_calibration_error
from common.metrics.confusion import Confusion
from common.metrics.grading import grade_statistics
from common.metrics.ranking import auprc, auroc

Sample = tuple[Float64Array, Float64Array, Float64Array]  # scores (N,), truths (N,), weights (R, N)


@pytest.fixture
def sample() -> Sample:
    """Scores with many ties, and integer weights among which are zeros, as a bootstrap has."""
    rng = np.random.default_rng(5)
    truths = (rng.random(120) < 0.3).astype(float)
    scores = np.round(np.clip(0.3 * truths + 0.7 * rng.random(120), 0, 1), 1)
    weights = rng.integers(0, 4, size=(6, 120)).astype(float)
    return scores, truths, weights


def test_weighted_auroc_equals_sklearns(sample: Sample) -> None:
    scores, truths, weights = sample
    expected = [sklearn_metrics.roc_auc_score(truths, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(auroc(scores, truths, weights), expected, atol=1e-12)


def test_weighted_auprc_equals_sklearns_average_precision(sample: Sample) -> None:
    scores, truths, weights = sample
    expected = [
        sklearn_metrics.average_precision_score(truths, scores, sample_weight=w) for w in weights
    ]
    np.testing.assert_allclose(auprc(scores, truths, weights), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("accuracy", sklearn_metrics.accuracy_score),
        ("balanced_accuracy", sklearn_metrics.balanced_accuracy_score),
        ("precision", sklearn_metrics.precision_score),
        ("sensitivity", sklearn_metrics.recall_score),
        ("f1", sklearn_metrics.f1_score),
    ],
)
def test_weighted_decision_metrics_equal_sklearns(
    sample: Sample, metric: str, reference: Callable[..., float]
) -> None:
    scores, truths, weights = sample
    decisions = scores >= 0.5
    expected = [reference(truths, decisions, sample_weight=w) for w in weights]
    counts = Confusion.of(decisions, truths, weights)
    np.testing.assert_allclose(getattr(counts, metric), expected, atol=1e-12)


def test_weighted_specificity_is_sklearns_recall_of_the_other_class(sample: Sample) -> None:
    scores, truths, weights = sample
    decisions = scores >= 0.5
    expected = [
        sklearn_metrics.recall_score(truths, decisions, pos_label=0, sample_weight=w)
        for w in weights
    ]
    np.testing.assert_allclose(
        Confusion.of(decisions, truths, weights).specificity, expected, atol=1e-12
    )


def test_weighted_brier_score_equals_sklearns(sample: Sample) -> None:
    scores, truths, weights = sample
    expected = [sklearn_metrics.brier_score_loss(truths, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(brier_score(scores, truths, weights), expected, atol=1e-12)


def test_integer_weights_count_as_copies_in_the_calibration_error(sample: Sample) -> None:
    scores, truths, weights = sample
    copies = weights[0].astype(int)
    copied = expected_calibration_error(
        np.repeat(scores, copies), np.repeat(truths, copies), np.ones((1, copies.sum()))
    )
    np.testing.assert_allclose(
        expected_calibration_error(scores, truths, weights[:1]), copied, atol=1e-12
    )


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([0.1, 0.15, 0.5, 0.9, 1.0])
    truths = np.array([0.0, 1.0, 1.0, 1.0, 0.0])
    # Two bins: |0.25 - 1| and |2.4 - 2|, over five pictures; 0.5 and 1.0 belong to the upper bin.
    error = expected_calibration_error(probabilities, truths, np.ones((1, 5)), bins=2)
    assert error.tolist() == pytest.approx([(0.75 + 0.4) / 5])


def test_weighted_grade_metrics_equal_sklearns() -> None:
    rng = np.random.default_rng(6)
    truths = rng.integers(0, 5, 90)
    predicted = np.clip(truths + rng.integers(-1, 2, 90), 0, 4)
    weights = rng.integers(0, 3, size=(4, 90)).astype(float)
    expected = [
        (
            sklearn_metrics.accuracy_score(truths, predicted, sample_weight=w),
            sklearn_metrics.balanced_accuracy_score(truths, predicted, sample_weight=w),
            sklearn_metrics.cohen_kappa_score(
                truths, predicted, weights="quadratic", labels=range(5), sample_weight=w
            ),
        )
        for w in weights
    ]
    values = grade_statistics(truths, predicted, weights, num_grades=5)
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_rows_without_one_of_the_classes_are_undefined_where_they_must_be() -> None:
    scores, truths = np.array([0.2, 0.6, 0.7]), np.array([0.0, 0.0, 1.0])
    weights = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    counts = Confusion.of(scores >= 0.5, truths, weights)
    nan = np.nan
    np.testing.assert_array_equal(counts.accuracy, [0.5, 1, nan])
    np.testing.assert_array_equal(counts.sensitivity, [nan, 1, nan])
    np.testing.assert_array_equal(counts.specificity, [0.5, nan, nan])
    np.testing.assert_array_equal(counts.balanced_accuracy, [nan, nan, nan])
    np.testing.assert_array_equal(counts.precision, [nan, 1, nan])
    np.testing.assert_array_equal(counts.f1, [nan, 1, nan])
    np.testing.assert_array_equal(auroc(scores, truths, weights), [nan, nan, nan])
    np.testing.assert_array_equal(auprc(scores, truths, weights), [nan, nan, nan])
