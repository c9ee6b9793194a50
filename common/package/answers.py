"""The questions of a task and the answers that a prediction set may hold; one question per logit.

Light: numpy and scipy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from common.metrics.bootstrap import Float64Array
from common.metrics.temperature import grade_chances
from common.tasks import Task

ABSENT, PRESENT = "absent", "present"


@dataclass(frozen=True)
class Question:
    """What one logit is asked."""

    name: str  # of task.logit_names
    answers: tuple[str, ...]
    keys: tuple[str, ...]  # of the answers, distinct over the whole task
    is_ordered: bool  # the answers are grades


def questions(task: Task) -> tuple[Question, ...]:
    """Return the questions of a task in the order of its logits.

    A finding is absent or present; a grade is one of the grades; a binary task has its two classes.
    """
    if task.kind == "multi-label":
        return tuple(
            Question(name, (ABSENT, PRESENT), (f"{name}: {ABSENT}", f"{name}: {PRESENT}"), False)
            for name in task.labels
        )
    return (Question(task.logit_names[0], task.labels, task.labels, task.kind == "ordinal"),)


def nonconformities(class_logits: NDArray[np.floating], *, task: Task) -> tuple[Float64Array, ...]:
    """Return one minus the uncalibrated probability of every answer, per question (N, A).

    Args:
        class_logits: One per class name, (N, C).
        task: As the run restricts it.
    """
    logits = class_logits.astype(np.float64)
    if task.kind == "ordinal":
        return (1 - grade_chances(expit(logits)),)
    # The other answer's probability, not one minus the own: near 1 the latter has no digits left.
    return tuple(np.stack([expit(logits.T), expit(-logits.T)], axis=2))


def right_answers(targets: NDArray[np.floating], question: int) -> NDArray[np.int64]:
    """Return which answer of a question is right in each picture, (N, T) → (N,), -1: unknown."""
    column = targets[:, question]
    return np.where(np.isnan(column), -1, column).astype(np.int64)


def limits(question: Question, thresholds: Mapping[str, float]) -> Float64Array:
    """Return the thresholds of a question's answers, (A,), each of which must have one."""
    return np.array([thresholds[key] for key in question.keys])
