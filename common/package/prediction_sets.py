"""Fits the thresholds of prediction sets, and measures what they cover.

Split conformal prediction: fitted on the part ``calibration``, judged on the part ``gate``.
"""

from collections.abc import Mapping

import numpy as np

from common.machine.derived_seed import derive_seed
from common.metrics.bootstrap import Float64Array
from common.metrics.conformal import answer_sets, fewest_pictures, one_per_patient, threshold
from common.package.answers import (
    Question,
    limits,
    nonconformities,
    questions,
    right_answers,
)
from common.package.known import NotKnown, lack
from common.package.responses import Responses
from common.package.schema import Conformal
from common.tasks import Task


def prediction_sets(
    calibration: Responses, gate: Responses, *, task: Task, coverage: float, seed: int
) -> Conformal | NotKnown:
    """Fit the thresholds of the prediction sets.

    One picture is drawn of each patient and answer, so that what is promised is promised for a
    new patient. Every answer gets its own threshold, and so its own coverage. Where a grade is too
    rare for that all grades share one, and are covered on average; a finding with an answer too
    rare has no set.
    """
    why = lack(calibration, 1, "a prediction set")
    if why:
        return NotKnown(why)
    rng = np.random.default_rng(derive_seed(seed, "conformal", task.name))
    fewest = fewest_pictures(coverage)
    thresholds: dict[str, float] = {}
    pictures: dict[str, int] = {}
    left_out: dict[str, str] = {}
    is_per_answer = True
    scores = nonconformities(calibration.class_logits, task=task)
    for number, question in enumerate(questions(task)):
        right = right_answers(calibration.targets, number)
        own = {
            key: _drawn(scores[number], right, right == answer, calibration, rng)
            for answer, key in enumerate(question.keys)
        }
        counts = {key: len(values) for key, values in own.items()}
        if min(counts.values()) < fewest and question.is_ordered:
            is_per_answer = False
            everyone = _drawn(scores[number], right, right >= 0, calibration, rng)
            own = dict.fromkeys(question.keys, everyone)
            counts = dict.fromkeys(question.keys, len(everyone))
        found = {key: threshold(values, coverage=coverage) for key, values in own.items()}
        known = {key: value for key, value in found.items() if value is not None}
        if len(known) < len(found):
            left_out[question.name] = _too_few(question, counts, coverage)
            continue
        thresholds |= known
        pictures |= counts
    if not thresholds:
        return NotKnown(" ".join(f"{name}: {why}" for name, why in left_out.items()))
    covered = measured_coverage(gate, thresholds, task=task) if gate.is_finite() else {}
    return Conformal(
        coverage=coverage,
        thresholds=thresholds,
        pictures=pictures,
        is_per_answer=is_per_answer,
        left_out=left_out,
        measured_coverage={key: share for key, (share, _) in covered.items()},
        measured_pictures={key: count for key, (_, count) in covered.items()},
    )


def measured_coverage(
    responses: Responses, thresholds: Mapping[str, float], *, task: Task
) -> dict[str, tuple[float, int]]:
    """Return, per answer, the share of pictures with it whose set holds it, and their number.

    Answers without a threshold or without a picture are left out.
    """
    scores = nonconformities(responses.class_logits, task=task)
    found: dict[str, tuple[float, int]] = {}
    for number, question in enumerate(questions(task)):
        if not set(question.keys) <= set(thresholds):
            continue
        right = right_answers(responses.targets, number)
        members = answer_sets(
            scores[number], limits(question, thresholds), is_ordered=question.is_ordered
        )
        for answer, key in enumerate(question.keys):
            rows = right == answer
            if rows.any():
                found[key] = (float(members[rows, answer].mean()), int(rows.sum()))
    return found


def _too_few(question: Question, counts: Mapping[str, int], coverage: float) -> str:
    rarest = min(counts, key=lambda key: counts[key])
    which = "a known grade" if question.is_ordered else f"the answer {rarest}"
    return (
        f"The calibration part has {counts[rarest]} patients with {which}; a coverage of "
        f"{coverage:g} needs {fewest_pictures(coverage)}."
    )


def _drawn(
    scores: Float64Array,
    right: np.ndarray,
    chosen: np.ndarray,
    responses: Responses,
    rng: np.random.Generator,
) -> Float64Array:
    """Return the right answer's nonconformity in one of each patient's chosen pictures."""
    rows = np.flatnonzero(chosen)
    rows = rows[one_per_patient(responses.patients[rows], rng)]
    drawn: Float64Array = scores[rows, right[rows]]
    return drawn
