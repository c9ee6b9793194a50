"""What a site adds to the sums of a round, before it is masked."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.errors import DataError, WireError
from common.messages.kinds import Metrics, Update
from common.model.layers import TRUNK
from common.secure_sum.layout import (
    CLIPPED,
    FLOOR_JUDGED,
    FLOOR_MET,
    PICTURES,
    TRAIN_PREFIX,
    WEIGHT,
    Layout,
    count_of,
    layouts,
    max_weight,
    sum_of,
)
from common.secure_sum.measures import LOSS_PARTS, metric_names


def contribution(
    update: Update, config: RunConfig, *, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.uint32]]:
    """Return a site's vector for each group that it is in, (size,) of common/secure_sum/layout.py.

    ``shapes`` are of the arrays of the model that the update is relative to. Arrays of a head that
    is in no group are left out: they stay at the site. Raises DataError for an update that is not
    finite, WireError for one whose arrays are not the model's.
    """
    placed = layouts(config, shapes, task=update.task)
    for layout in placed.values():
        for name in layout.names:
            if name not in update.arrays:
                raise WireError(f"group {layout.group}: the update has no array {name}.")
    factor = scaling(update, placed)
    extras = site_extras(update, config, is_clipped=factor < 1)
    return {
        group: layout.encode(
            {name: update.arrays[name] for name in layout.names}, extras[group], factor=factor
        )
        for group, layout in placed.items()
    }


def scaling(update: Update, placed: Mapping[str, Layout]) -> float:
    """Return by how much the whole update is scaled so that every sum can hold it, in (0, 1].

    Its L2 norm over all groups becomes at most ``clip_norm``, and no number of a group larger than
    ``Layout.largest_number``. An update within both bounds stays as it is. Raises DataError for one
    that is not finite.
    """
    squares, factor = 0.0, 1.0
    for layout in placed.values():
        for name in layout.names:
            flat = update.arrays[name].ravel()
            # Of float32 numbers, so that no square is too large for the sum.
            square = float(np.square(flat, dtype=np.float64).sum())
            if not math.isfinite(square):
                raise DataError(f"{name} is not finite and cannot be summed. Lower learning_rate.")
            squares += square
            largest = float(np.abs(flat).max()) if flat.size else 0.0
            if largest > layout.largest_number:
                factor = min(factor, layout.largest_number / largest)
    norm = math.sqrt(squares)
    clip_norm = min(layout.clip_norm for layout in placed.values())
    return min(factor, clip_norm / norm) if norm > clip_norm else factor


def site_extras(
    update: Update, config: RunConfig, *, is_clipped: bool
) -> dict[str, dict[str, float]]:
    """Return the extras of each group that a site is in, by the names of its layout."""
    weight = float(min(update.num_examples, max_weight(config)))
    judged, met = floor_bits(update.evaluation, config.federation.site_floor)
    trunk = {
        WEIGHT: weight,
        PICTURES: float(update.num_examples),
        CLIPPED: float(is_clipped),
        FLOOR_JUDGED: float(judged),
        FLOOR_MET: float(met),
    }
    trained = {TRAIN_PREFIX + part: update.metrics.get(part) for part in LOSS_PARTS}
    measured = {name: update.evaluation.get(name) for name in metric_names(config, update.task)}
    return {TRUNK: trunk | _pairs(trained), update.task: {WEIGHT: weight} | _pairs(measured)}


def floor_bits(evaluation: Metrics, floor: Mapping[str, float]) -> tuple[bool, bool]:
    """Return whether a site measured all that the floor names, and whether it reached all of it.

    Without a floor nothing is judged.
    """
    judged = bool(floor) and all(name in evaluation for name in floor)
    return judged, judged and all(evaluation[name] >= least for name, least in floor.items())


def _pairs(values: Mapping[str, float | None]) -> dict[str, float]:
    pairs = {}
    for name, value in values.items():
        is_defined = value is not None and math.isfinite(value)
        pairs[count_of(name)] = float(is_defined)
        pairs[sum_of(name)] = float(value) if value is not None and is_defined else 0.0
    return pairs
