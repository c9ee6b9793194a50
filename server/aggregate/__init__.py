"""How the updates of one group of arrays merge into one: a table of pure numpy functions."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.registry import Registry


class Aggregation(Protocol):
    """Merges what the sites sent for one named array."""

    def __call__(
        self, arrays: Sequence[NDArray[np.float32]], weights: Sequence[int]
    ) -> NDArray[np.float64]:
        """Return the merged array.

        ``arrays`` have one shape and come in the sites' sorted order, so that a sum has the same
        bits whoever answered first; ``weights`` are the sites' training pictures.
        """
        ...


AGGREGATIONS: Registry[Aggregation] = Registry(
    "aggregation",
    {
        "weighted-mean": "server.aggregate.weighted_mean:weighted_mean",
        "uniform-mean": "server.aggregate.uniform_mean:uniform_mean",
        "median": "server.aggregate.median:median",
        "trimmed-mean": "server.aggregate.trimmed_mean:trimmed_mean",
    },
)
