"""Merges updates group by group: trunk over all sites, each head over the sites that hold it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import AggregationError
from common.messages.kinds import Arrays, Update
from server.aggregate import Aggregation


def merge(
    updates: Sequence[Update], model: Arrays, aggregation: Aggregation
) -> dict[str, NDArray[np.float64]]:
    """Return the merged change of each array of the model that at least one update holds.

    Validated updates only. The result has the same bits for every order of arrival.
    Raises AggregationError when no array of any update is one of the model's.
    """
    by_site = sorted(updates, key=lambda update: update.site)
    merged = {}
    for name in model:
        holders = [update for update in by_site if name in update.arrays]
        if holders:
            result = aggregation(
                [update.arrays[name] for update in holders],
                [update.num_examples for update in holders],
            )
            merged[name] = np.asarray(result)  # sums of single numbers are no arrays any more
    if not merged:
        sites = ", ".join(update.site for update in by_site) or "nobody"
        raise AggregationError(
            f"no array of the updates (from {sites}) is one of the model's {len(model)}. "
            "Check federation.local_layers and that all ends build the same network."
        )
    return merged
