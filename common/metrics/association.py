"""How a concept goes with a diagnosis: rank correlation over the pictures of one set."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from common.errors import DataError

Float64Array = NDArray[np.float64]

SMALL = 0.2  # nothing is made of a correlation below it
_NORMAL_95 = 1.959964  # quantile of the normal distribution at 0.975


def association(
    concept_probabilities: NDArray[np.floating], logits: NDArray[np.floating]
) -> Float64Array:
    """Return Spearman's rank correlation of each concept with each logit, (K, T) in [-1, 1].

    Spearman 1904, https://doi.org/10.2307/1412159: Pearson's correlation of the ranks, ties sharing
    their mean rank. NaN where either side is the same in all pictures (a concept that nobody has
    taught), in a column with a value that is not finite, and for fewer than 3 pictures.

    Args:
        concept_probabilities: (N, K); any increasing function of them gives the same.
        logits: (N, T) of the same pictures.

    Raises:
        DataError: The two are not of the same pictures.
    """
    if (
        concept_probabilities.ndim != 2
        or logits.ndim != 2
        or len(concept_probabilities) != len(logits)
    ):
        raise DataError(
            f"concepts {concept_probabilities.shape} and logits {logits.shape} must be (N, K) and "
            "(N, T) of the same N pictures."
        )
    if len(logits) < 3:
        return np.full((concept_probabilities.shape[1], logits.shape[1]), np.nan)
    concepts, answers = _standardised(concept_probabilities), _standardised(logits)
    found: Float64Array = concepts.T @ answers
    return np.clip(found, -1.0, 1.0)


def is_settled(correlation: float, *, patients: int) -> bool:
    """Say whether so many patients tell what a rank correlation is: not nought, or surely small.

    Its 95 % interval, Fisher's z with the standard error √((1 + r² / 2) / (n - 3)) of Bonett and
    Wright 2000, doi:10.1007/BF02294183, leaves out 0 or lies within ± ``SMALL``.

    Args:
        correlation: Spearman's, in [-1, 1].
        patients: n, 4 or more, else nothing is settled. Pictures of one patient are no new
            evidence.
    """
    if patients < 4:
        return False
    if abs(correlation) >= 1:
        return True
    error = np.sqrt((1 + correlation**2 / 2) / (patients - 3))
    centre = np.arctanh(correlation)
    low, high = np.tanh(centre - _NORMAL_95 * error), np.tanh(centre + _NORMAL_95 * error)
    return bool(low > 0 or high < 0 or (low > -SMALL and high < SMALL))


def _standardised(values: NDArray[np.floating]) -> Float64Array:
    """Return ranks per column, centred and of length 1, NaN for a column that cannot be ranked."""
    ranks = np.empty(values.shape, dtype=np.float64)
    for column in range(values.shape[1]):
        ranks[:, column] = rankdata(values[:, column].astype(np.float64))
    ranks -= ranks.mean(axis=0)
    length = np.linalg.norm(ranks, axis=0)
    usable = (length > 0) & np.isfinite(values).all(axis=0)
    return np.where(usable, ranks / np.where(length > 0, length, 1.0), np.nan)
