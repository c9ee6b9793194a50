"""Whether a probability means what it says: calibration error and Brier score."""

import numpy as np

from common.metrics.bootstrap import Float64Array, ratio

CALIBRATION_BINS = 15


def expected_calibration_error(
    probabilities: Float64Array,
    truths: Float64Array,
    weights: Float64Array,
    *,
    bins: int = CALIBRATION_BINS,
) -> Float64Array:
    """Mean distance between the probability of the positive class and how often it occurs.

    Sum over bins b of (n_b / n) |mean probability in b - share of positives in b|, for ``bins``
    bins of equal width, each with its lower edge, the last with both. Naeini et al. 2015
    (doi:10.1609/aaai.v29i1.9602), on the probability of the positive class. Biased upwards in
    small samples: a perfect model scores above 0.

    Args:
        probabilities: of the positive class, in [0, 1], shape (N,).
        truths: 0 or 1, shape (N,).
        weights: at least 0, shape (R, N).
        bins: number of bins.

    Returns:
        Shape (R,), in [0, 1], NaN where a row has no weight.
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of_picture = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, bins - 1)
    gaps = np.zeros((probabilities.size, bins))
    gaps[np.arange(probabilities.size), bin_of_picture] = probabilities - truths
    distance = np.abs(weights @ gaps).sum(axis=1)  # (R, N) x (N, bins) -> (R, bins) -> (R,)
    return ratio(distance, weights.sum(axis=1))


def brier_score(
    probabilities: Float64Array, truths: Float64Array, weights: Float64Array
) -> Float64Array:
    """Mean squared distance between probability and truth (Brier 1950).

    Args:
        probabilities: of the positive class, in [0, 1], shape (N,).
        truths: 0 or 1, shape (N,).
        weights: at least 0, shape (R, N).

    Returns:
        Shape (R,), in [0, 1], NaN where a row has no weight.
    """
    return ratio(weights @ (probabilities - truths) ** 2, weights.sum(axis=1))
