"""Mean weighted by training pictures, as in federated averaging."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def weighted_mean(
    arrays: Sequence[NDArray[np.float32]], weights: Sequence[int]
) -> NDArray[np.float64]:
    """Return Σ n_k·a_k / Σ n_k.

    McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized
    Data, arXiv:1602.05629, algorithm 1.
    """
    total = np.zeros(arrays[0].shape, dtype=np.float64)
    for array, weight in zip(arrays, weights, strict=True):
        total += np.multiply(array, weight, dtype=np.float64)
    return total / sum(weights)
