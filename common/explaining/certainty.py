"""How sure an answer is: probabilities, prediction set, novelty, and what they rest on."""

from collections.abc import Mapping, Sequence

from common.explanation.derived import class_answers, grade_answers, is_settled, member
from common.explanation.schema import CalibratedOn, Finding, Novelty, PredictionSet
from common.explanation.written import written
from common.package.prediction import Prediction
from common.package.promise import promise
from common.package.schema import Calibration, TaskPackage
from common.tasks import Task


def answers_of(task: Task, found: Sequence[Finding]) -> dict[str, float]:
    """Return the probability of each answer where answers exclude each other."""
    if task.kind == "ordinal":
        return grade_answers(task.labels, [finding.probability for finding in found])
    return class_answers(task.labels, found[0].probability) if task.kind == "binary" else {}


def set_of(
    prediction: Prediction,
    about: TaskPackage,
    task: Task,
    *,
    found: Sequence[Finding],
    answers: Mapping[str, float],
) -> PredictionSet | None:
    """Return the answers that cannot be ruled out, None for a task without prediction sets."""
    calibration = about.calibration
    if prediction.sets is None or calibration is None or calibration.conformal is None:
        return None
    sets = prediction.sets[0]
    is_multi = task.kind == "multi-label"
    members = tuple(
        member(one.question, word) if is_multi else word for one in sets for word in one.members
    )
    questions = tuple(one.question for one in sets)
    return PredictionSet(
        members=members,
        questions=questions,
        coverage=calibration.conformal.coverage,
        calibration_pictures=min(calibration.conformal.pictures.values()),
        is_sure=is_settled(
            task.kind, findings=found, answers=answers, members=members, questions=questions
        ),
        promise=promise(calibration.conformal, task),
        left_out=calibration.conformal.left_out,
    )


def why_no_set(about: TaskPackage) -> str:
    """Return why a task has no prediction sets, as the package says it."""
    if about.calibration is None:
        return about.why_not_calibrated
    return about.calibration.why_not_conformal


def calibrated_on(calibration: Calibration | None) -> CalibratedOn | None:
    """Return what the probabilities rest on, with the package's note, None without calibration."""
    if calibration is None:
        return None
    error = calibration.error_after
    return CalibratedOn(
        pictures=calibration.pictures,
        patients=calibration.patients,
        error=None if error is None else written(error),
        error_pictures=calibration.gate_pictures,
        note=calibration.note,
    )


def novelty_of(prediction: Prediction, about: TaskPackage) -> Novelty | None:
    """Return how unlike the calibration part's pictures this one is, None where it is unknown."""
    if prediction.distance is None or prediction.is_novel is None or about.novelty_limit is None:
        return None
    return Novelty(
        score=written(prediction.distance[0]),
        limit=written(about.novelty_limit),
        is_novel=bool(prediction.is_novel[0]),
    )
