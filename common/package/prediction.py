"""What a network's output means: calibrated probabilities, prediction sets, novelty.

Numpy on a few numbers per picture, so that it costs next to nothing beside the forward pass.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.metrics.bootstrap import Float64Array
from common.metrics.conformal import answer_sets
from common.metrics.novelty import Familiar
from common.metrics.temperature import calibrated
from common.model.network import Output
from common.package.answers import limits, nonconformities, questions
from common.package.schema import Conformal, TaskPackage
from common.package.shift import unshifted
from common.tasks import Task


@dataclass(frozen=True)
class AnswerSet:
    """The answers to one question that cannot be ruled out, in the question's order."""

    question: str  # of task.logit_names
    members: tuple[str, ...]  # "absent" and "present" for a finding, else labels

    @property
    def is_sure(self) -> bool:
        """Say whether exactly one answer is left. Not sure: several fit, or none does."""
        return len(self.members) == 1


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of B pictures; C class names."""

    output: Output  # of the forward pass that all of it comes from
    uncalibrated: Float64Array  # (B, C), in [0, 1], sigmoid(logit - threshold)
    # (B, C), sigmoid((logit - threshold - shift) / temperature) where the task is calibrated
    probabilities: Float64Array
    # Per picture, one set for each question that has one; None: the task has no prediction sets.
    sets: tuple[tuple[AnswerSet, ...], ...] | None
    distance: Float64Array | None  # (B,) to what is familiar; None: unknown
    is_novel: NDArray[np.bool_] | None  # (B,)


def interpret(
    output: Output, *, task: Task, about: TaskPackage, familiar: Familiar | None
) -> Prediction:
    """Turn a network's output for one task into a prediction; the output may have gradients.

    Prediction sets rest on the logits as they are, probabilities on those less the shift.

    Args:
        output: Of the network for this task, B pictures.
        task: As the package's labels restrict it.
        about: The task's part of the package.
        familiar: Of the package; None: novelty is unknown.
    """
    class_logits = _numbers(output.class_logits)
    uncalibrated = calibrated(class_logits, 1.0)
    calibration = about.calibration
    distance, is_novel = None, None
    if familiar is not None and about.novelty_limit is not None:
        distance = familiar.distance(_numbers(output.pooled))
        is_novel = distance > about.novelty_limit
    return Prediction(
        output=output,
        uncalibrated=uncalibrated,
        probabilities=uncalibrated
        if calibration is None
        else calibrated(
            unshifted(class_logits, calibration.shift, task=task), calibration.temperature
        ),
        sets=None
        if calibration is None or calibration.conformal is None
        else _sets(class_logits, calibration.conformal, task),
        distance=distance,
        is_novel=is_novel,
    )


def _sets(
    class_logits: NDArray[np.float32], conformal: Conformal, task: Task
) -> tuple[tuple[AnswerSet, ...], ...]:
    scores = nonconformities(class_logits, task=task)
    found: list[list[AnswerSet]] = [[] for _ in class_logits]
    for number, question in enumerate(questions(task)):
        if question.name in conformal.left_out:
            continue
        thresholds = limits(question, conformal.thresholds)
        members = answer_sets(scores[number], thresholds, is_ordered=question.is_ordered)
        for picture, row in zip(found, members.tolist(), strict=True):
            kept = tuple(a for a, is_in in zip(question.answers, row, strict=True) if is_in)
            picture.append(AnswerSet(question.name, kept))
    return tuple(tuple(picture) for picture in found)


def _numbers(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
