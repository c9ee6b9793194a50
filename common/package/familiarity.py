"""What pictures are familiar to a model: its limit to what is novel, fitted and judged."""

from dataclasses import dataclass

import numpy as np

from common.machine.derived_seed import derive_seed
from common.metrics.novelty import (
    FEWEST_PATIENTS,
    Familiar,
    NoveltyLimit,
    fit_familiar,
    novelty_limit,
)
from common.package.known import NotKnown, lack
from common.package.responses import Responses
from common.tasks import Task


@dataclass(frozen=True, eq=False)
class Novelty:
    """What pictures are familiar, and how often the limit calls an ordinary one novel."""

    familiar: Familiar
    limit: NoveltyLimit
    measured_share: float | None  # on the gate part; None: it is empty


def learn_novelty(
    calibration: Responses, gate: Responses, *, task: Task, seed: int
) -> Novelty | NotKnown:
    """Describe the calibration part's pictures and set the limit to what is novel."""
    why = lack(calibration, FEWEST_PATIENTS, "a limit to what is novel")
    if why:
        return NotKnown(why)
    rng = np.random.default_rng(derive_seed(seed, "novelty", task.name))
    limit = novelty_limit(calibration.features, calibration.patients, rng=rng)
    familiar = fit_familiar(calibration.features)
    measured = None
    if len(gate) and gate.is_finite():
        measured = float((familiar.distance(gate.features) > limit.value).mean())
    return Novelty(familiar, limit, measured)
