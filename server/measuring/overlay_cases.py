"""Which reference pictures are shown after every round, and what is written under them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.datasets.shard import Shard, lesion_masks
from common.learning.evaluate import TaskPredictions, context_share, positive_logits
from common.metrics.localisation import localise
from common.tasks import Task
from server.measuring.overlays import OverlayCase, OverlayMap


@dataclass(frozen=True)
class Choice:
    """One picture of a shard and the logit whose map is shown for it."""

    index: int
    logit: int


def choose_cases(shard: Shard, part: str, *, task: Task, count: int) -> tuple[Choice, ...]:
    """Choose the pictures to show, from the shard alone and so the same in every round.

    Positive pictures with a lesion region first, one logit after the other and one picture per
    patient; the last place goes to a picture without any finding, where a map should stay calm.
    Where regions are scarce, positive pictures without one fill the row.
    """
    outlined: list[list[Choice]] = [[] for _ in range(task.num_logits)]
    plain: list[list[Choice]] = [[] for _ in range(task.num_logits)]
    negative: list[Choice] = []
    for index in map(int, shard.indices(part)):
        positive = positive_logits(shard, index)
        if not positive:
            if (shard.targets[index] == 0).all():
                negative.append(Choice(index, 0))
            continue
        masks = lesion_masks(shard, index, task)
        for logit in positive:
            group = outlined if logit in masks else plain
            group[logit].append(Choice(index, logit))
    reserved = 1 if count >= 3 and negative else 0
    ordered = [*_in_turn(outlined), *_in_turn(plain)]
    chosen = _one_per_patient(ordered, shard, count - reserved)
    return (*chosen, *_one_per_patient(negative, shard, count - len(chosen)))


def overlay_case(shard: Shard, choice: Choice, *, task: Task) -> OverlayCase:
    """Return what stays the same about a case."""
    return OverlayCase(
        image=np.asarray(shard.images[choice.index]),
        roi=lesion_masks(shard, choice.index, task).get(choice.logit),
        question=_question(task, choice.logit),
        truth=_truth(float(shard.targets[choice.index, choice.logit]), task),
    )


def overlay_map(
    predicted: TaskPredictions, case: OverlayCase, choice: Choice, *, task: Task
) -> OverlayMap:
    """Return what one model sees in a case; its map must have been kept."""
    signed = predicted.kept_maps[choice.index][choice.logit]  # (h, w)
    row = int(np.searchsorted(predicted.indices, choice.index))
    context = float(predicted.context[row, choice.logit])
    has_context = task.logit_names[choice.logit] in predicted.with_context
    return replace(
        bare_map(signed, case),
        prediction=_prediction(predicted, row, choice.logit, task),
        context_share=context_share(map_logits=float(signed.sum()), context_logits=context)
        if has_context
        else None,
    )


def bare_map(signed: NDArray[np.floating], case: OverlayCase) -> OverlayMap:
    """Return what a signed map (h, w) shows in a case, without saying what was predicted."""
    found = None if case.roi is None else localise(signed, case.roi)
    speaks_for = np.where(np.isfinite(signed), np.clip(signed, 0, None), 0).astype(np.float32)
    total = float(speaks_for.sum())
    return OverlayMap(
        saliency=speaks_for / total if total > 0 else speaks_for,
        evidence_logits=total,
        prediction="",
        energy_in_roi=None if found is None else found.energy,
        chance_energy=None if found is None else found.energy_chance,
        context_share=None,
    )


def _question(task: Task, logit: int) -> str:
    if task.kind == "ordinal":
        return "which grade?"
    return f"{task.logit_names[logit].replace('_', ' ')}?"


def _truth(target: float, task: Task) -> str:
    if np.isnan(target):
        return "unknown"
    if task.kind == "multi-label":
        return "present" if target else "absent"
    return task.labels[int(target)]


def _prediction(predicted: TaskPredictions, row: int, logit: int, task: Task) -> str:
    answers = predicted.predictions
    chance = answers.probabilities[row]  # (K,)
    if not np.isfinite(chance).all():
        return "predicted: not finite"
    if answers.predicted_grades is None:
        return f"predicted: {chance[logit]:.0%}"
    grade = int(answers.predicted_grades[row])
    reached = [1.0, *chance.tolist(), 0.0]  # P(grade >= k) for k = 0..K + 1
    return f"predicted: {task.labels[grade]}, {reached[grade] - reached[grade + 1]:.0%}"


def _in_turn(groups: Sequence[Sequence[Choice]]) -> list[Choice]:
    """Return the first of each group, then the second of each, and so on."""
    longest = max((len(group) for group in groups), default=0)
    return [group[n] for n in range(longest) for group in groups if n < len(group)]


def _one_per_patient(choices: Sequence[Choice], shard: Shard, count: int) -> list[Choice]:
    taken: list[Choice] = []
    patients: set[int] = set()
    for choice in choices:
        patient = int(shard.patients[choice.index])
        if len(taken) < count and patient not in patients:
            taken.append(choice)
            patients.add(patient)
    return taken
