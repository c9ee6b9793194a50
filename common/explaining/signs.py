"""What the concept heads see, and whether it speaks for or against an answer.

A sign bears on an answer as it did on the calibration part, by rank correlation. A sign that goes
along with an answer supports it where it is there and in the same places, and speaks against it
where it is missing; a sign that goes along with the contrary speaks against it where it is there.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.explaining.own_map import Seen, chance, grid_maps
from common.explanation.schema import Concept, Stance
from common.explanation.written import written
from common.metrics.association import SMALL
from common.tasks import Task

ASSOCIATED = SMALL  # correlation below which a sign bears on nothing
SAME_PLACES = 0.1  # overlap below which a sign is elsewhere


def signs(
    numbers: Seen, *, task: Task, association: Mapping[str, Mapping[str, float]]
) -> tuple[tuple[Concept, ...], ...]:
    """Return the concepts for each logit of a task.

    A concept that no site has taught has a logit of exactly 0 and an empty map: it is left out.

    Args:
        numbers: Of the picture.
        task: Whose concepts these are, in the order of the heads.
        association: Concept → logit name → rank correlation on the calibration part.
    """
    names = task.concepts[: len(numbers.concept_logits)]
    taught = [place for place in range(len(names)) if numbers.concept_maps[place].any()]
    maps = dict(zip(taught, grid_maps(numbers.concept_maps[taught], "logits"), strict=True))
    of_logit = []
    for logit, logit_name in enumerate(task.logit_names):
        found = []
        for place in taught:
            known = association.get(names[place], {}).get(logit_name)
            probability = chance(numbers.concept_logits[place], None)
            overlap = overlap_of(numbers.concept_maps[place], numbers.maps[logit])
            found.append(
                Concept(
                    name=names[place],
                    probability=probability,
                    map=maps[place],
                    overlap=overlap,
                    association=None if known is None else written(known),
                    stance=stance(probability=probability, overlap=overlap, association=known),
                )
            )
        of_logit.append(tuple(found))
    return tuple(of_logit)


def overlap_of(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return how much of two maps' positive parts lies in the same places, in [0, 1].

    Σ min of the two, each scaled to sum to 1; 0 where one has no positive part.
    """
    parts = [np.maximum(values, 0) for values in (first, second)]
    totals = [float(part.sum()) for part in parts]
    if min(totals) <= 0:
        return 0.0
    shared = np.minimum(parts[0] / totals[0], parts[1] / totals[1]).sum()
    return written(min(1.0, float(shared)))


def stance(*, probability: float, overlap: float, association: float | None) -> Stance:
    """Say what a sign does for an answer."""
    if association is None:
        return "unknown"
    if abs(association) < ASSOCIATED:
        return "neither"
    is_there = probability >= 0.5
    if association > 0:
        if not is_there:
            return "against"
        return "supports" if overlap >= SAME_PLACES else "neither"
    return "against" if is_there else "neither"
