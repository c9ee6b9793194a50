"""From opened sums to the change of the model, and to what may be told of the sites together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import AggregationError
from common.model.layers import TRUNK
from common.secure_sum.layout import (
    CLIPPED,
    FLOOR_JUDGED,
    FLOOR_MET,
    PICTURES,
    TRAIN_PREFIX,
    WEIGHT,
    GroupSum,
    Layout,
)
from server.rounds.round_report import SecureSums, SummedGroup


@dataclass(frozen=True, eq=False)
class Merged:
    """What the sums of a round come to."""

    change: Mapping[str, NDArray[np.float64]]  # Σ weight · update / Σ weight, of every array
    sums: SecureSums


def merged(
    opened: Mapping[str, NDArray[np.uint32]],
    scales: Mapping[str, Layout],
    *,
    groups: Mapping[str, tuple[str, ...]],
    closed: Mapping[str, str],
) -> Merged:
    """Return the change that the opened sums are, and what they tell.

    Args:
        opened: The sum of each group, (size,), without masks.
        scales: How each group's vector is written.
        groups: The sites in each opened sum.
        closed: Groups that were not opened, each with the reason; their arrays do not change.

    Raises AggregationError for a sum that no sites can have made.
    """
    change: dict[str, NDArray[np.float64]] = {}
    told = {group: SummedGroup(sites=0, reason=reason) for group, reason in closed.items()}
    for group in sorted(opened):
        found, sites = scales[group].decode(opened[group]), len(groups[group])
        weight = found.extras[WEIGHT]
        if not 0 < weight <= sites * scales[group].max_weight:
            raise AggregationError(
                f"the sum of {group} over {sites} sites cannot be right: the weights are {weight:g}"
            )
        change |= found.mean()
        told[group] = _told(group, found, sites)
    return Merged(change, SecureSums(told, ""))


def unopened(closed: Mapping[str, str], reason: str) -> SecureSums:
    """Return what is told of a round that changed nothing."""
    groups = {group: SummedGroup(sites=0, reason=why) for group, why in closed.items()}
    return SecureSums(groups, reason)


def _told(group: str, found: GroupSum, sites: int) -> SummedGroup:
    measures = found.measures()
    if group != TRUNK:
        return SummedGroup(sites=sites, reason="", evaluation=measures)
    judged = int(found.extras[FLOOR_JUDGED])
    return SummedGroup(
        sites=sites,
        reason="",
        num_examples=int(found.extras[PICTURES]),
        clipped=int(found.extras[CLIPPED]),
        above_floor=(int(found.extras[FLOOR_MET]), judged) if judged else None,
        training={name.removeprefix(TRAIN_PREFIX): mean for name, mean in measures.items()},
    )
