"""Does a class still go with its signs? From one measured round to the next, on a fixed sample.

A class whose answer went with a sign and no longer does may have found another reason. It may also
be the sign's own head that has moved: the alarm says which pair to look at, not which of the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config.run import EvaluationConfig
from common.learning.evaluate import TaskPredictions
from common.metrics.association_interval import association_changes, association_estimates
from common.metrics.estimate import Estimate
from common.tasks import Task
from server.measuring.explanation_sample import Looked

BySign = Mapping[str, Mapping[str, Estimate]]  # class → sign → estimate


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model says of N pictures: of T classes, and of K signs by what rises with them."""

    logits: NDArray[np.float32]  # (N, T)
    signs: NDArray[np.float32]  # (N, K); K = 0 where the model has no heads for them


def answers_to(predicted: TaskPredictions, rows: NDArray[np.int64]) -> Answers:
    """Return what was said of these pictures of the shard, (N,), in their order."""
    places = np.searchsorted(predicted.indices, rows)
    concepts = predicted.concepts
    signs = np.zeros((len(rows), 0), np.float32)
    if concepts is not None:
        signs = concepts.predictions.probabilities[places].astype(np.float32)
    return Answers(logits=predicted.logits[places], signs=signs)


def answers_in(looked: Looked) -> Answers:
    """Return what a model said of the pictures it looked at, as :func:`answers_to` has it.

    Of signs probabilities: those near 1 are tied, and their logits are not.
    """
    return Answers(logits=looked.logits, signs=looked.sign_probabilities)


def goes_with(
    answers: Answers,
    patients: NDArray[np.int32],
    *,
    task: Task,
    rules: EvaluationConfig,
    rng: np.random.Generator,
) -> dict[str, dict[str, Estimate]]:
    """Return the rank correlation of each class with each sign, {} without heads for signs.

    A sign that is the same in all pictures, as one that nobody has taught, is left out.
    """
    if not answers.signs.shape[1]:
        return {}
    found = association_estimates(
        answers.signs,
        answers.logits,
        patients,
        replicates=rules.bootstrap_replicates,
        min_patients=rules.min_positive_patients,
        rng=rng,
    )
    return _by_class(found, task)


def changes(
    before: Answers,
    now: Answers,
    patients: NDArray[np.int32],
    *,
    task: Task,
    rules: EvaluationConfig,
    rng: np.random.Generator,
) -> dict[str, dict[str, Estimate]]:
    """Return how much the rank correlations have changed, pictures paired; {} likewise."""
    if not now.signs.shape[1] or before.signs.shape != now.signs.shape:
        return {}
    found = association_changes(
        (before.signs, before.logits),
        (now.signs, now.logits),
        patients,
        replicates=rules.bootstrap_replicates,
        min_patients=rules.min_positive_patients,
        rng=rng,
    )
    return _by_class(found, task)


def _by_class(
    found: tuple[tuple[Estimate, ...], ...], task: Task
) -> dict[str, dict[str, Estimate]]:
    return {
        name: {
            sign: of_sign[logit]
            for sign, of_sign in zip(task.concepts, found, strict=True)
            if of_sign[logit].value is not None
        }
        for logit, name in enumerate(task.logit_names)
    }
