"""Plain mean: every site counts the same, however many pictures it has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.aggregate.weighted_mean import weighted_mean


def uniform_mean(
    arrays: Sequence[NDArray[np.float32]], weights: Sequence[int]
) -> NDArray[np.float64]:
    """Return Σ a_k / K; the weights are not used."""
    return weighted_mean(arrays, [1] * len(weights))
