"""Metrics of ordered grades: right grades, per grade, and how far the wrong ones are off."""

import numpy as np
from numpy.typing import NDArray

from common.metrics.bootstrap import (
    Float64Array,
    IntArray,
    bootstrap,
    interval_or_reason,
    once_each,
    patients_lacking,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none

GRADE_METRICS = ("grade_accuracy", "grade_balanced_accuracy", "quadratic_weighted_kappa")


def grade_statistics(
    truths: NDArray[np.int64],
    predicted: NDArray[np.int64],
    weights: Float64Array,
    *,
    num_grades: int,
) -> Float64Array:
    """Return the values of ``GRADE_METRICS`` for each row of weights.

    Balanced accuracy is the mean, over grades that occur, of the share graded right. Kappa is
    1 - sum(d O) / sum(d E) with d = (i - j)^2, O the observed and E the independent joint counts
    (Cohen 1968, doi:10.1037/h0026256); it is NaN where truth and prediction are one same grade.

    Args:
        truths: grade 0..num_grades-1, shape (N,).
        predicted: likewise.
        weights: at least 0, shape (R, N).
        num_grades: number of grades of the scale.

    Returns:
        Shape (R, 3).
    """
    cells = np.zeros((truths.size, num_grades * num_grades))
    cells[np.arange(truths.size), truths * num_grades + predicted] = 1
    observed = (weights @ cells).reshape(-1, num_grades, num_grades)  # (R, true, predicted)
    total = observed.sum(axis=(1, 2))
    of_grade, called = observed.sum(axis=2), observed.sum(axis=1)  # (R, grades) each

    right = np.diagonal(observed, axis1=1, axis2=2)  # (R, grades)
    recall = np.nan_to_num(ratio(right, of_grade))
    balanced = ratio(recall.sum(axis=1), (of_grade > 0).sum(axis=1).astype(np.float64))

    grades = np.arange(num_grades)
    distance = (grades[:, None] - grades[None, :]) ** 2
    disagreement = (distance * observed).sum(axis=(1, 2))
    by_chance = np.einsum("ij,ri,rj->r", distance, of_grade, called)  # times the total weight
    kappa = 1 - ratio(disagreement * total, by_chance)
    return np.stack([ratio(right.sum(axis=1), total), balanced, kappa], axis=1)


def grade_estimates(
    truths: NDArray[np.floating] | IntArray,
    predicted: NDArray[np.floating] | IntArray,
    patients: IntArray,
    *,
    num_grades: int,
    replicates: int,
    min_positive_patients: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Return ``GRADE_METRICS`` with what they rest on; positive means a grade above 0.

    Chance is always giving the commonest grade. Balanced accuracy has an interval only if each
    grade that occurs has enough patients.

    Args:
        truths: grade 0..num_grades-1, NaN where unknown, shape (N,).
        predicted: grade 0..num_grades-1, shape (N,); NaN where the model's output is not finite,
            and then no metric has a value.
        patients: patient codes, shape (N,).
        num_grades: number of grades of the scale.
        replicates: of the bootstrap over patients; 0 for no intervals.
        min_positive_patients: fewest positive patients for an interval.
        rng: source of the bootstrap's draws.
    """
    known = ~np.isnan(truths)
    is_finite = not np.isnan(predicted[known]).any()
    grades = truths[known].astype(np.int64)
    called = predicted[known].astype(np.int64) if is_finite else np.zeros_like(grades)
    owners = patients[known]

    def statistic(weights: Float64Array) -> Float64Array:
        if not is_finite:
            return np.full((len(weights), len(GRADE_METRICS)), np.nan)
        return grade_statistics(grades, called, weights, num_grades=num_grades)

    values = statistic(once_each(grades.size))[0]  # (3,)
    positive_patients = len(np.unique(owners[grades > 0]))
    lack = patients_lacking(
        "positive patients", present=positive_patients, needed=min_positive_patients
    )
    present = np.unique(grades)
    rarest = min((len(np.unique(owners[grades == grade])) for grade in present), default=0)
    rare = patients_lacking(
        "patients of the rarest grade", present=rarest, needed=min_positive_patients
    )
    lacks = {metric: lack for metric in GRADE_METRICS} | {"grade_balanced_accuracy": lack or rare}
    drawn = np.empty((0, len(GRADE_METRICS)))
    if replicates and not lack:
        drawn = bootstrap(statistic, owners, replicates=replicates, rng=rng)
    chance = (
        {
            "grade_accuracy": float(np.bincount(grades).max() / grades.size),
            "grade_balanced_accuracy": 1 / present.size,
            "quadratic_weighted_kappa": 0.0,
        }
        if grades.size
        else {}
    )
    estimates = {}
    for m, metric in enumerate(GRADE_METRICS):
        value = finite_or_none(values[m])
        low, high, note = interval_or_reason(drawn[:, m], lacks[metric])
        if value is None:
            low, high, note = None, None, _why_undefined(grades.size, is_finite=is_finite)
        estimates[metric] = Estimate(
            value=value,
            low=low,
            high=high,
            support=grades.size,
            positives=int((grades > 0).sum()),
            positive_patients=positive_patients,
            chance=chance.get(metric),
            note=note,
        )
    return estimates


def _why_undefined(pictures: int, *, is_finite: bool) -> str:
    if pictures == 0:
        return "not defined: no picture with a known grade"
    if not is_finite:
        return "not defined: the model's output is not finite"
    return "not defined: truth and prediction are one same grade"
