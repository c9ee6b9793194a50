"""From a model's responses to a reference set to what the package knows of its certainty.

Fitted on the part ``calibration``, judged on the part ``gate``, which chose nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.derived_seed import derive_seed
from common.metrics.association import association, is_settled
from common.metrics.bootstrap import Float64Array, once_each
from common.metrics.calibration import expected_calibration_error
from common.metrics.conformal import answer_sets, fewest_pictures, one_per_patient, threshold
from common.metrics.estimate import finite_or_none
from common.metrics.novelty import (
    FEWEST_PATIENTS,
    Familiar,
    NoveltyLimit,
    fit_familiar,
    novelty_limit,
)
from common.metrics.temperature import calibrated, fit_temperature
from common.package.answers import (
    Question,
    limits,
    nonconformities,
    questions,
    right_answers,
)
from common.package.responses import Responses
from common.package.schema import Calibration, Conformal
from common.package.shift import keeps_order, shift_note, unshifted
from common.tasks import Task

FEWEST_CALIBRATION_PATIENTS = 20  # below this a temperature is a guess


@dataclass(frozen=True)
class NotKnown:
    """Something that could not be fitted."""

    why: str  # in words, a sentence


@dataclass(frozen=True, eq=False)
class Novelty:
    """What pictures are familiar, and how often the limit calls an ordinary one novel."""

    familiar: Familiar
    limit: NoveltyLimit
    measured_share: float | None  # on the gate part; None: it is empty


def calibrate(
    calibration: Responses,
    gate: Responses,
    *,
    task: Task,
    coverage: float,
    seed: int,
    shift: Mapping[str, float] | None = None,
) -> Calibration | NotKnown:
    """Fit the temperature and the thresholds of the prediction sets.

    The shift comes from the loss and not from pictures. It is taken off the logits before the
    temperature is fitted; prediction sets are of the logits as they are. Where grades would lose
    their order by it nothing is shifted, and the note says so.

    Args:
        calibration: To the part that decides.
        gate: To the part that judges; it may be empty.
        task: As the run restricts it.
        coverage: Wanted of the prediction sets, in (0, 1).
        seed: The run's; draws one picture per patient.
        shift: Per class name, in logits, of :func:`common.package.shift.class_shift`; None: the
            loss weighs no answer.
    """
    lack = _lack(calibration, FEWEST_CALIBRATION_PATIENTS, "a temperature")
    if lack:
        return NotKnown(lack)
    asked = {name: (shift or {}).get(name, 0.0) for name in task.class_names}
    logits = unshifted(calibration.class_logits, asked, task=task)
    is_kept = not any(asked.values()) or keeps_order(logits, task=task)
    done = asked if is_kept else dict.fromkeys(asked, 0.0)
    as_they_are = fit_temperature(calibration.class_logits, calibration.targets, kind=task.kind)
    found = fit_temperature(logits, calibration.targets, kind=task.kind) if is_kept else as_they_are
    if found is None or as_they_are is None:
        return NotKnown("No picture of the reference set's calibration part has a known answer.")
    # Pictures that are all answered right, or all have one answer, would make every answer as sure
    # as the range allows, eight times its logit, because no mistake was seen. Too sure is worse.
    temperature = 1.0 if found.is_bounded and found.value < 1 else found.value
    rows = (~np.isnan(calibration.targets)).any(axis=1)
    notes = [shift_note(done)]
    if not is_kept:
        notes.append(
            "Training weighed positive answers; taking that off would put grades out of order, so "
            "that it was left: probabilities lie off how often they are right."
        )
    if as_they_are.loss_after < found.loss_after:
        notes.append(
            "The calibration pictures themselves speak for the logits as they are: positive "
            "answers may be more frequent among them than in training, or training was too short "
            "to move the logits."
        )
    if found.is_bounded:
        notes.append(
            f"The temperature of {found.value:.3g} lies at the end of its range: the calibration "
            "pictures do not settle it. More of them would."
        )
        if temperature != found.value:
            notes.append("Nothing vouches for answers as sure as that, so that it is left at one.")
    conformal = prediction_sets(calibration, gate, task=task, coverage=coverage, seed=seed)
    return Calibration(
        shift=done,
        temperature=temperature,
        pictures=int(rows.sum()),
        patients=len(np.unique(calibration.patients[rows])),
        error_before=calibration_error(gate, task=task, temperature=1.0),
        error_after=calibration_error(gate, task=task, temperature=temperature, shift=done),
        gate_pictures=len(gate),
        note=" ".join(filter(None, notes)),
        conformal=conformal if isinstance(conformal, Conformal) else None,
        why_not_conformal=conformal.why if isinstance(conformal, NotKnown) else "",
    )


def calibration_error(
    responses: Responses,
    *,
    task: Task,
    temperature: float,
    shift: Mapping[str, float] | None = None,
) -> float | None:
    """Return the expected calibration error over all known questions, None where there is none.

    Of sigmoid((class logit - shift) / temperature); without a shift nothing is taken off.
    """
    truths = _truths(responses, task)
    known = ~np.isnan(truths)
    if not known.any() or not responses.is_finite():
        return None
    logits = unshifted(responses.class_logits, shift or {}, task=task)
    chances = calibrated(logits, temperature)[known]
    weights = once_each(int(known.sum()))
    return finite_or_none(float(expected_calibration_error(chances, truths[known], weights)[0]))


def prediction_sets(
    calibration: Responses, gate: Responses, *, task: Task, coverage: float, seed: int
) -> Conformal | NotKnown:
    """Fit the thresholds of the prediction sets.

    One picture is drawn of each patient and answer, so that what is promised is promised for a
    new patient. Every answer gets its own threshold, and so its own coverage. Where a grade is too
    rare for that all grades share one, and are covered on average; a finding with an answer too
    rare has no set.
    """
    lack = _lack(calibration, 1, "a prediction set")
    if lack:
        return NotKnown(lack)
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


def learn_novelty(
    calibration: Responses, gate: Responses, *, task: Task, seed: int
) -> Novelty | NotKnown:
    """Describe the calibration part's pictures and set the limit to what is novel."""
    lack = _lack(calibration, FEWEST_PATIENTS, "a limit to what is novel")
    if lack:
        return NotKnown(lack)
    rng = np.random.default_rng(derive_seed(seed, "novelty", task.name))
    limit = novelty_limit(calibration.features, calibration.patients, rng=rng)
    familiar = fit_familiar(calibration.features)
    measured = None
    if len(gate) and gate.is_finite():
        measured = float((familiar.distance(gate.features) > limit.value).mean())
    return Novelty(familiar, limit, measured)


def concept_association(responses: Responses, *, task: Task) -> dict[str, dict[str, float]]:
    """Return Spearman's correlation of each concept with each logit: concept → logit name.

    A concept that does not vary, as nobody has taught it, is left out, and so is a correlation that
    chance could have brought about (:func:`common.metrics.association.is_settled`): of 20 patients
    every second or third pair without any connection exceeds 0.2. There is none from fewer than
    ``FEWEST_CALIBRATION_PATIENTS`` patients or a diverged model.
    """
    concepts = responses.concept_logits
    if responses.num_patients < FEWEST_CALIBRATION_PATIENTS or not responses.is_finite():
        return {}
    found = association(concepts, responses.logits)
    named = {
        concept: {
            logit: float(value)
            for logit, value in zip(task.logit_names, row, strict=True)
            if np.isfinite(value) and is_settled(float(value), patients=responses.num_patients)
        }
        # No rows where the network has no concept head.
        for concept, row in zip(task.concepts, found, strict=False)
    }
    return {concept: values for concept, values in named.items() if values}


def _lack(responses: Responses, needed: int, for_what: str) -> str:
    if not len(responses):
        return (
            "The reference set has no calibration part. Give it a share in "
            "data.reference_split.calibration."
        )
    if responses.num_patients < needed:
        return (
            f"The calibration part has {responses.num_patients} patients, {for_what} needs "
            f"{needed}. Enlarge the reference set or its calibration part."
        )
    if not responses.is_finite():
        return (
            "The model has diverged: some of its numbers are not finite. Lower the learning rate."
        )
    return ""


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


def _truths(responses: Responses, task: Task) -> Float64Array:
    """Return the truth of each class name, (N, C), NaN where unknown."""
    targets = responses.targets.astype(np.float64)
    if task.kind != "ordinal":
        return targets
    steps = np.arange(1, len(task.labels))
    truths: Float64Array = np.where(np.isnan(targets), np.nan, targets >= steps)
    return truths
