"""Which signs carry a class: where its evidence lies, and what its answer goes with.

Measured once, when the rounds are over, over all of a reference set's part.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config.run import EvaluationConfig
from common.datasets.shard import Shard
from common.machine.seed import derive_seed
from common.metrics.association_interval import association_estimates
from common.metrics.estimate import Estimate
from common.metrics.mean_estimate import mean_estimate
from common.metrics.signs import evidence_on_sign, sign_places
from common.model.network import Network
from common.tasks import Task
from server.measuring.explanation_sample import Looked, look_at

ASSOCIATION, CALLED = "association", "sign_called"
Estimates = Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class SignsReport:
    """What the signs of a task do for its classes, in one model."""

    pictures: int  # looked at
    patients: int
    # Class → sign → over the pictures that show the class ``evidence_on_sign``, the same
    # ``_above_chance`` and ``sign_called``, the share in which the sign is said to be there; and
    # over all pictures ``association``.
    per_class: Mapping[str, Mapping[str, Estimates]]
    untaught: tuple[str, ...]  # signs with an empty map in every picture: no site has taught them


def measure_signs(
    network: Network,
    shard: Shard,
    part: str,
    *,
    task: Task,
    rules: EvaluationConfig,
    seed: int,
) -> SignsReport | None:
    """Look at every picture of a part once and measure each class against each sign.

    Args:
        network: On the device to be used; left in the mode it came in.
        shard: Of the task and its labels.
        part: Of the shard.
        task: As the run restricts it.
        rules: Bootstrap and batches.
        seed: Of the bootstrap's draws.

    Returns None where the network has no heads for the task's signs, or the part is empty.
    """
    indices = shard.indices(part)
    if not network.config.concepts.get(task.name) or not task.concepts or not len(indices):
        return None
    looked = look_at(network, shard, indices, task=task, batch_size=rules.batch_size)

    def draws() -> np.random.Generator:
        # The same for every class and sign, so that they differ by their maps alone.
        return np.random.default_rng(derive_seed(seed, "bootstrap", "signs", task.name, part))

    # What was never taught has evidence of exactly 0 everywhere: see common.model.concepts.
    is_taught = (looked.sign_maps != 0).any(axis=(0, 2, 3))
    taught = np.flatnonzero(is_taught).tolist()
    patients = shard.patients[indices]
    shown = shard.targets[indices] >= 1  # (N, T); NaN, unknown, is not shown
    per_class: dict[str, dict[str, dict[str, Estimate]]] = {name: {} for name in task.logit_names}
    if taught:
        goes_with = association_estimates(
            looked.sign_logits[:, taught],
            looked.logits,
            patients,
            replicates=rules.bootstrap_replicates,
            min_patients=rules.min_positive_patients,
            rng=draws(),
        )
        for place, sign in enumerate(taught):
            on_sign = _on_sign(looked, sign, shown, patients, rules=rules, draws=draws)
            for logit, name in enumerate(task.logit_names):
                found = {**on_sign[logit], ASSOCIATION: goes_with[place][logit]}
                per_class[name][task.concepts[sign]] = found
    return SignsReport(
        pictures=len(indices),
        patients=len(np.unique(patients)),
        per_class=per_class,
        untaught=tuple(
            name for name, known in zip(task.concepts, is_taught, strict=True) if not known
        ),
    )


def _on_sign(
    looked: Looked,
    sign: int,
    shown: NDArray[np.bool_],
    patients: NDArray[np.int32],
    *,
    rules: EvaluationConfig,
    draws: Callable[[], np.random.Generator],
) -> list[dict[str, Estimate]]:
    """Return per class what one sign does in the pictures that show it, (N, T) ``shown``."""
    places = sign_places(looked.sign_maps[:, sign])
    is_called = (looked.sign_logits[:, sign] > 0).astype(np.float64)  # probability above one half
    found = []
    for logit, rows in enumerate(shown.T):
        lies = evidence_on_sign(
            looked.maps[rows, logit],
            places[rows],
            patients[rows],
            replicates=rules.bootstrap_replicates,
            min_patients=rules.min_positive_patients,
            rng=draws(),
        )
        called = mean_estimate(
            is_called[rows],
            patients[rows],
            replicates=rules.bootstrap_replicates,
            min_patients=rules.min_positive_patients,
            rng=draws(),
        )
        found.append({**lies, CALLED: called})
    return found
