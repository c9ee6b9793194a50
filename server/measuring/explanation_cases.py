"""The pictures on which explanation methods are compared: few, fixed, each with its lesion."""

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from common.datasets.shard import Shard, lesion_masks
from common.machine.seed import derive_seed
from common.tasks import Task


@dataclass(frozen=True, eq=False)
class OutlinedCase:
    """One picture, one logit that is positive in it, and the region that explains it."""

    index: int  # in the shard
    logit: int
    patient: int
    region: NDArray[np.bool_]  # (S, S)


def outlined_cases(
    shard: Shard, part: str, *, task: Task, count: int, seed: int
) -> tuple[OutlinedCase, ...]:
    """Choose pictures with an outlined lesion by the seed, one per patient; classes take turns.

    The first cases are those of a smaller ``count``.

    Args:
        shard: Where the pictures are.
        part: One of its parts.
        task: As the run restricts it.
        count: At most; fewer where there are fewer such patients.
        seed: Of the run.
    """
    rng = np.random.default_rng(derive_seed(seed, "outlined cases", task.name, part))
    groups: list[dict[int, OutlinedCase]] = [{} for _ in range(task.num_logits)]  # by patient
    for index in rng.permutation(shard.indices(part)).tolist():
        # A region is read from disk: no more of them than may be needed.
        if all(len(group) >= count for group in groups):
            break
        patient = int(shard.patients[index])
        for logit, mask in lesion_masks(shard, index, task).items():
            if mask.any():
                groups[logit].setdefault(patient, OutlinedCase(index, logit, patient, mask))
    chosen: dict[int, OutlinedCase] = {}  # by patient
    for turn in zip_longest(*(group.values() for group in groups)):
        for case in turn:
            if case is not None and len(chosen) < count:
                chosen.setdefault(case.patient, case)
    return tuple(chosen.values())
