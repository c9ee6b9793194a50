"""Bootstrap over patients: pictures of one patient are drawn together, as they are not independent.

Each replicate draws as many patients as there are, with replacement (Efron & Tibshirani 1993,
chapter 8; the cluster bootstrap of Field & Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x).
A drawn patient counts as a whole number of copies, so a replicate is a row of picture weights,
and a metric that understands weights handles many replicates at once.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.integer]
Statistic = Callable[[Float64Array], Float64Array]  # weights (R, N) -> values (R, ...)

CONFIDENCE = 0.95
# 2 million weights are 16 MB: replicates of large sets are made in portions of this size.
WEIGHTS_AT_ONCE = 2_000_000


def patient_weights(
    patients: IntArray, *, replicates: int, rng: np.random.Generator
) -> Float64Array:
    """Return how often each picture counts in each replicate, shape (replicates, N).

    Args:
        patients: patient code of each picture, shape (N,), any integers.
        replicates: number of replicates.
        rng: source of the draws; the same state gives the same weights.
    """
    codes, code_of_picture = np.unique(patients, return_inverse=True)
    if codes.size == 0:
        return np.zeros((replicates, 0))
    drawn = rng.integers(codes.size, size=(replicates, codes.size))
    drawn += np.arange(replicates)[:, None] * codes.size  # a range of numbers per replicate
    counts = np.bincount(drawn.ravel(), minlength=replicates * codes.size)
    copies = counts.reshape(replicates, codes.size)[:, code_of_picture]  # (R, P) -> (R, N)
    return copies.astype(np.float64)


def once_each(pictures: int) -> Float64Array:
    """Return the weights of the sample itself, shape (1, pictures)."""
    return np.ones((1, pictures))


def bootstrap(
    statistic: Statistic, patients: IntArray, *, replicates: int, rng: np.random.Generator
) -> Float64Array:
    """Return the statistic of every replicate, shape (replicates, ...), NaN where undefined.

    Args:
        statistic: maps picture weights (R, N) to values (R, ...).
        patients: patient code of each picture, shape (N,).
        replicates: number of replicates, at least 1.
        rng: source of the draws. The result does not depend on how replicates are portioned.

    Raises:
        ConfigError: for fewer than 1 replicate.
    """
    if replicates < 1:
        raise ConfigError(
            f"a bootstrap needs at least 1 replicate, got {replicates}; 1000 is usual."
        )
    portion = max(1, WEIGHTS_AT_ONCE // max(1, len(patients)))
    sizes = [min(portion, replicates - done) for done in range(0, replicates, portion)]
    values = [statistic(patient_weights(patients, replicates=size, rng=rng)) for size in sizes]
    return np.concatenate(values)


def percentile_interval(values: Float64Array) -> tuple[float, float] | None:
    """Return the bounds of the central 95 % of the replicates, shape (R,).

    Replicates in which the statistic is undefined (NaN) are left out; where that is more than one
    in twenty, the remaining ones no longer stand for the sampling and the answer is ``None``.
    """
    defined = values[np.isfinite(values)]
    if defined.size == 0 or defined.size < CONFIDENCE * values.size:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)


def interval_or_reason(values: Float64Array, lack: str) -> tuple[float | None, float | None, str]:
    """Return the bounds of the replicates (R,) and "", or no bounds and why there are none.

    ``lack`` is the reason known beforehand, such as too few patients, or "".
    """
    if lack:
        return None, None, lack
    if values.size == 0:
        return None, None, "no interval: no replicates asked for"
    bounds = percentile_interval(values)
    if bounds is None:
        return None, None, "no interval: not defined in too many replicates"
    return *bounds, ""


def patients_lacking(kind: str, *, present: int, needed: int) -> str:
    """Return why there is no interval with so few patients of a kind, "" if there are enough."""
    return "" if present >= needed else f"no interval: {present} {kind}, {needed} needed"


def ratio(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    """Return the quotient, NaN (without a warning) where the denominator is 0."""
    quotient = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
