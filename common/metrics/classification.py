"""How right a task's predictions are: per class, on average and per grade, with support."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, DataError
from common.metrics.binary import METRICS, BinaryQuestion
from common.metrics.bootstrap import (
    Float64Array,
    IntArray,
    bootstrap,
    interval_or_reason,
    once_each,
)
from common.metrics.estimate import Estimate, finite_or_none, joined
from common.metrics.grading import grade_estimates


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about one set of N pictures of a task, K yes/no questions each.

    The questions are ``Task.class_names``: is the finding there, is the grade at least k, is it
    malignant. A probability may be NaN or infinite (a diverged model): its class has no value then.

    Raises DataError if shapes or ranges do not fit.
    """

    task: str
    class_names: tuple[str, ...]
    probabilities: NDArray[np.floating]  # (N, K), in [0, 1]
    truths: NDArray[np.floating]  # (N, K): 0, 1, or NaN where unknown
    patients: IntArray  # (N,), equal codes for pictures of one patient
    grades: NDArray[np.floating] | IntArray | None = None  # (N,): 0..K, NaN where unknown
    predicted_grades: NDArray[np.floating] | IntArray | None = None  # (N,): 0..K, NaN: not finite

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        pictures, classes = len(self.patients), len(self.class_names)
        self._check_shape("probabilities", self.probabilities, (pictures, classes))
        self._check_shape("truths", self.truths, (pictures, classes))
        self._check_values("truths", self.truths, range(2))
        finite = self.probabilities[np.isfinite(self.probabilities)]
        if finite.size and (finite.min() < 0 or finite.max() > 1):
            raise DataError(
                f"probabilities of task {self.task} must lie in [0, 1], got values from "
                f"{finite.min():.4g} to {finite.max():.4g}. Give probabilities, not logits."
            )
        if (self.grades is None) != (self.predicted_grades is None):
            raise DataError(f"task {self.task}: give both grades and predicted_grades, or neither.")
        for name in ("grades", "predicted_grades"):
            grades: NDArray[np.floating] | IntArray | None = getattr(self, name)
            if grades is not None:
                self._check_shape(name, grades, (pictures,))
                self._check_values(name, grades, range(classes + 1))

    def _check_shape(
        self, name: str, array: NDArray[np.floating] | IntArray, expected: tuple[int, ...]
    ) -> None:
        if array.shape != expected:
            raise DataError(
                f"{name} of task {self.task} must have shape {expected}, got {array.shape}. "
                "Use one row per patient code and one column per class name."
            )

    def _check_values(
        self, name: str, array: NDArray[np.floating] | IntArray, allowed: range
    ) -> None:
        strange = np.setdiff1d(array[~np.isnan(array)], np.array(allowed))
        if strange.size:
            raise DataError(
                f"{name} of task {self.task} must be in {list(allowed)}, or NaN where unknown, "
                f"got {strange[:3].tolist()}. Correct the label mapping."
            )


@dataclass(frozen=True)
class ClassificationReport:
    """Every classification number of one task on one set.

    ``average`` is the mean over the classes that have both positives and negatives, which its notes
    list; it has an interval only if each of them can have one. ``supported_average`` is the mean
    over the classes that can have an interval, and has one whenever there is such a class.
    ``grades`` holds the ordinal metrics (``grading.GRADE_METRICS``), nothing for other tasks.
    ``baseline`` is what always giving this set's commonest answer scores, averaged as ``average``.
    """

    per_class: dict[str, dict[str, Estimate]]  # class -> metric of binary.METRICS -> estimate
    average: dict[str, Estimate]
    supported_average: dict[str, Estimate]
    grades: dict[str, Estimate]
    baseline: dict[str, float]


def classification_metrics(
    predictions: Predictions,
    *,
    replicates: int,
    min_positive_patients: int,
    rng: np.random.Generator,
    threshold: float | Mapping[str, float] = 0.5,
) -> ClassificationReport:
    """Measure predictions against the truth.

    Accuracy, balanced accuracy, precision, sensitivity, specificity and F1 judge the decision
    "probability >= threshold"; AUROC, AUPRC, calibration error and Brier score the probability.

    Args:
        predictions: of one task on one set.
        replicates: of the bootstrap over patients; 0 for no intervals.
        min_positive_patients: fewest positive patients, and fewest negative ones, for an interval.
        rng: source of the bootstrap's draws.
        threshold: one for all classes, or one per class name.

    Raises:
        ConfigError: if a class has no threshold, or for negative replicates.
    """
    if replicates < 0:
        raise ConfigError(f"replicates must be >= 0, got {replicates}; use 0 for no intervals.")
    questions = [
        _question(predictions, k, threshold, min_positive_patients)
        for k in range(len(predictions.class_names))
    ]

    def every_metric(weights: Float64Array) -> Float64Array:  # (R, N) -> (R, K, M)
        return np.stack([question.statistics(weights) for question in questions], axis=1)

    values = every_metric(once_each(len(predictions.patients)))[0]  # (K, M)
    drawn = np.empty((0, *values.shape))  # (R, K, M)
    if replicates and not all(question.lack for question in questions):
        drawn = bootstrap(every_metric, predictions.patients, replicates=replicates, rng=rng)

    per_class = {
        question.name: question.estimates(values[k], drawn[:, k])
        for k, question in enumerate(questions)
    }
    averaged = [k for k, question in enumerate(questions) if question.has_both_answers]
    supported = [k for k in averaged if not questions[k].lack]
    grades: dict[str, Estimate] = {}
    if predictions.grades is not None and predictions.predicted_grades is not None:
        grades = grade_estimates(
            predictions.grades,
            predictions.predicted_grades,
            predictions.patients,
            num_grades=len(questions) + 1,
            replicates=replicates,
            min_positive_patients=min_positive_patients,
            rng=rng,
        )
    return ClassificationReport(
        per_class=per_class,
        average=_average(predictions, questions, averaged, values, drawn),
        supported_average=_average(predictions, questions, supported, values, drawn),
        grades=grades,
        baseline=_baseline([questions[k] for k in averaged], grades),
    )


def _question(
    predictions: Predictions, k: int, threshold: float | Mapping[str, float], needed: int
) -> BinaryQuestion:
    """Return class k with the pictures whose label is known."""
    name = predictions.class_names[k]
    if isinstance(threshold, Mapping) and name not in threshold:
        raise ConfigError(
            f"no threshold for class {name!r} of task {predictions.task}, only for "
            f"{', '.join(threshold) or 'none'}. Add it, or give one number for all classes."
        )
    rows = np.flatnonzero(~np.isnan(predictions.truths[:, k]))
    return BinaryQuestion(
        name=name,
        rows=rows,
        probabilities=predictions.probabilities[rows, k].astype(np.float64),
        truths=predictions.truths[rows, k].astype(np.float64),
        patients=predictions.patients[rows],
        threshold=threshold[name] if isinstance(threshold, Mapping) else threshold,
        needed=needed,
    )


def _average(
    predictions: Predictions,
    questions: Sequence[BinaryQuestion],
    chosen: list[int],
    values: Float64Array,
    drawn: Float64Array,
) -> dict[str, Estimate]:
    """Return the mean over the chosen classes; its interval comes from the classes' replicates."""
    averaged = [questions[k] for k in chosen]
    # A class with two positives would be drawn with the same two each time: too sure an average.
    lack = next((f"{q.lack} ({q.name})" for q in averaged if q.lack), "")
    composition = f"average of {len(averaged)} of {len(questions)} classes: " + ", ".join(
        question.name for question in averaged
    )
    truths = predictions.truths[:, chosen]  # (N, chosen)
    is_positive = (truths == 1).any(axis=1)
    estimates = {}
    for m, metric in enumerate(METRICS):
        value, low, high, note = None, None, None, "not defined: no class could be averaged"
        if averaged:
            value = finite_or_none(values[chosen, m].mean())
            low, high, why_not = interval_or_reason(drawn[:, chosen, m].mean(axis=1), lack)
            note = joined(composition, why_not)
        chances = [q.chance()[metric] for q in averaged if metric in q.chance()]
        estimates[metric] = Estimate(
            value=value,
            low=low,
            high=high,
            support=int((~np.isnan(truths)).any(axis=1).sum()),
            positives=int(is_positive.sum()),
            positive_patients=len(np.unique(predictions.patients[is_positive])),
            chance=float(np.mean(chances)) if chances else None,
            note=note,
        )
    return estimates


def _baseline(
    averaged: Sequence[BinaryQuestion], grades: Mapping[str, Estimate]
) -> dict[str, float]:
    answers = [question.majority() for question in averaged]
    metrics = answers[0] if answers else {}
    baseline = {m: float(np.mean([answer[m] for answer in answers])) for m in metrics}
    return baseline | {m: grade.chance for m, grade in grades.items() if grade.chance is not None}
