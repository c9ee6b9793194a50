"""The mean of one number per picture, with an interval over patients."""

import numpy as np
from numpy.typing import NDArray

from common.metrics.bootstrap import (
    Float64Array,
    IntArray,
    bootstrap,
    interval_or_reason,
    once_each,
    patients_lacking,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none, joined


def mean_estimate(
    values: NDArray[np.floating],
    patients: IntArray,
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
    chance: float | None = None,
) -> Estimate:
    """Return the mean of the defined values; ``support`` says how many there are.

    Args:
        values: One per picture, (N,); NaN where not defined, which the note counts.
        patients: Patient code of each picture, (N,).
        replicates: Of the bootstrap over patients; 0 for no interval.
        min_patients: Fewest patients with a value for an interval.
        rng: Source of the bootstrap's draws.
        chance: What chance gives, where that is known.
    """
    is_defined = np.isfinite(values)
    known = np.where(is_defined, values, 0.0).astype(np.float64)
    defined = is_defined.astype(np.float64)

    def mean(weights: Float64Array) -> Float64Array:  # (R, N) -> (R,)
        return ratio(weights @ known, weights @ defined)

    present = len(np.unique(patients[is_defined]))
    lack = patients_lacking("patients", present=present, needed=min_patients)
    drawn = np.empty(0)
    if replicates and not lack:
        drawn = bootstrap(mean, patients, replicates=replicates, rng=rng)
    low, high, why_not = interval_or_reason(drawn, lack)
    support = int(is_defined.sum())
    missing = len(values) - support
    return Estimate(
        value=finite_or_none(mean(once_each(len(values)))[0]) if support else None,
        low=low,
        high=high,
        support=support,
        positives=None,
        positive_patients=None,
        chance=chance,
        note=joined(
            f"not defined for {missing} of {len(values)} pictures" * (missing > 0), why_not
        ),
    )
